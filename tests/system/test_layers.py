"""The layer rule, held against the #include lines: a layer includes only itself and what stands below it."""
import re

from muster_server import ROOT

# Bottom to top; the roles stand side by side and never include one another.
LAYERS = [
    ["base"],
    ["sandbox"],
    ["proto"],
    ["backend"],
    ["metrics"],
    ["config"],
    ["gpu"],
    ["request"],
    ["model"],
    ["channel"],
    ["engine"],
    ["sched"],
    ["net"],
    ["process"],
    ["api"],
    ["control"],
    ["worker", "gateway", "fleet", "mps", "supervisor"],
    ["proxy"],
    ["launch"],
    ["cli"],
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)

# Third-party headers stay in one place each.
THIRD_PARTY = {"onnxruntime_c_api.h": "engine/onnxruntime", "llhttp.h": "proto/http1", "cyaml/cyaml.h": "config",
               "yaml.h": "config", "curl/curl.h": ("cli", "engine/remote", "launch"),
               "hwloc.h": "gpu",
               "ncurses.h": "cli/top",
               "seccomp.h": "sandbox", "nghttp2/nghttp2.h": "net", "wslay/wslay.h": "proto/websocket",
               "protobuf-c/protobuf-c.h": "api"}


def sources():
    return [path for path in sorted((ROOT / "src").rglob("*")) if path.suffix in (".c", ".h")]


def test_every_folder_of_src_is_a_layer():
    assert {path.name for path in (ROOT / "src").iterdir()} == set(HEIGHT)


def test_includes_point_down():
    wrong = []
    for path in sources():
        layer = path.relative_to(ROOT / "src").parts[0]
        for name in INCLUDE.findall(path.read_text()):
            target = name.split("/")[0]
            assert target in HEIGHT or (path.parent / name).exists(), f"{path}: {name} is included from nowhere"
            if target in HEIGHT and target != layer and HEIGHT[target] >= HEIGHT[layer]:
                wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not wrong, "\n".join(wrong)


def test_the_build_links_the_same_order():
    order = re.findall(r"^muster_layer\((\w+)", (ROOT / "CMakeLists.txt").read_text(), re.M)
    heights = [HEIGHT[name] for name in order]
    assert heights == sorted(heights) and set(order) == set(HEIGHT) - {"cli"}


def test_third_party_headers_stay_in_one_place():
    for path in sources():
        text = path.read_text()
        for header, place in THIRD_PARTY.items():
            if re.search(rf"#\s*include\s+[<\"]{re.escape(header)}[>\"]", text):
                assert str(path.relative_to(ROOT / "src")).startswith(place), f"{path} includes {header}"


def test_no_folder_or_file_is_a_drawer():
    drawers = re.compile(r"(util|common|misc|helper)s?\b", re.I)
    assert not [path for path in sources() if drawers.search(path.stem)]
