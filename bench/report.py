"""How a bench that has several figures says what it found: row by row as it comes, or all at the end as JSON."""
import json
import pathlib
import tempfile

from models import models


def report(figures, arguments, print_row):
    """figures: functions of a folder, the models' paths and the arguments that yield rows; --only says which."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        folder = pathlib.Path(folder)
        paths = models(folder / "models")
        for figure in arguments.only:
            for row in figures[figure](folder, paths, arguments):
                rows.append(row)
                if not arguments.json:
                    print_row(row)
    if arguments.json:
        print(json.dumps(rows, indent=2))
