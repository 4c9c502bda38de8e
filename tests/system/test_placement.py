"""Which worker processes go onto which GPUs, what happens where they do not fit, and how many load at once."""
import json
import pathlib
import shutil

import pytest

from fake_nvml import FakeNvml, gpu
from muster_server import put_model, run_muster, sim_config, wait_for
from traffic import echo, sim_model

GPUS = "--simulate-gpus=4"


def gpu_group(gpus="", count=1):
    return f"{{ kind: KIND_GPU count: {count} {f'gpus: [{gpus}]' if gpus else ''} }}"


def places(server, model=None):
    """Sorted devices of the workers, each as often as it has processes."""
    return sorted(worker["device"] for worker in server.workers(model))


def refused(server, model, *words):
    """The model is not served, and says why."""
    answer = server.get(f"/v2/models/{model}/ready")
    assert answer.status != 200
    status = next(entry for entry in server.status()["models"] if entry["name"] == model)
    assert all(word in status["reason"] for word in words), status["reason"]


# ---- where workers go ------------------------------------------------------------------------------------------------

def test_instance_groups_on_gpus(serve, tmp_path):
    """KIND_GPU without gpus is every GPU; with gpus it is those; KIND_AUTO takes what the engine can use; KIND_CPU none."""
    models = tmp_path / "models"
    sim_model(models, "every", instance_group=gpu_group(count=2))
    sim_model(models, "some", instance_group=gpu_group("3, 1"))
    sim_model(models, "automatic")
    sim_model(models, "cpu", instance_group="{ kind: KIND_CPU }")
    sim_model(models, "mixed", instance_group=f"[ {gpu_group('0')}, {{ kind: KIND_CPU }} ]")
    server = serve(models, GPUS, "--processes-per-gpu=2")
    every = [f"gpu:{i}" for i in range(4)]
    assert places(server, "every") == sorted(2 * every)
    assert places(server, "some") == ["gpu:1", "gpu:1", "gpu:3", "gpu:3"]
    assert places(server, "automatic") == sorted(2 * every)
    assert places(server, "cpu") == ["cpu"]
    assert places(server, "mixed") == ["cpu", "gpu:0", "gpu:0"]
    for model in ("every", "some", "automatic", "cpu", "mixed"):
        assert echo(server, 1, model=model).status == 200


def test_workers_see_their_gpu_alone(serve, tmp_path):
    """By its UUID, whatever the server's own environment says; the rest of that reaches them."""
    sim_model(tmp_path / "models", "echo", instance_group=gpu_group("0, 2"))
    server = serve(tmp_path / "models", GPUS, "--sandbox=off",
                   env={"CUDA_MPS_PIPE_DIRECTORY": "/slurm/mps", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    for worker in server.workers("echo"):
        seen = dict(entry.split("=", 1) for entry in
                    pathlib.Path(f"/proc/{worker['pid']}/environ").read_text().split("\0") if "=" in entry)
        assert worker["gpu"] == f"GPU-simulated-{worker['device'].removeprefix('gpu:')}"
        assert seen["CUDA_VISIBLE_DEVICES"] == worker["gpu"]
        assert seen["CUDA_MPS_PIPE_DIRECTORY"] == "/slurm/mps"


@pytest.mark.parametrize("device, where", [("gpu", ["gpu:0", "gpu:1"]), ("gpu:1", ["gpu:1"]), ("cpu", ["cpu"]),
                                           ("gpu:GPU-simulated-0", ["gpu:0"])])
def test_a_device_for_all(serve, tmp_path, device, where):
    sim_model(tmp_path / "models", "echo", instance_group=gpu_group("0"))
    assert places(serve(tmp_path / "models", "--simulate-gpus=2", f"--device={device}")) == where


def test_settings_of_one_model(serve, tmp_path):
    sim_model(tmp_path / "models", "one", instance_group=gpu_group())
    sim_model(tmp_path / "models", "three", instance_group=gpu_group())
    (tmp_path / "muster.yaml").write_text("models:\n  three: {processes_per_gpu: 3}\n")
    server = serve(tmp_path / "models", "--simulate-gpus=1", cwd=tmp_path)
    assert (places(server, "one"), places(server, "three")) == (["gpu:0"], 3 * ["gpu:0"])


# ---- which GPUs the server may use -----------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, env, where", [
    (["--gpus=1,3"], {}, ["gpu:1", "gpu:3"]), (["--gpus=2-3"], {}, ["gpu:2", "gpu:3"]),
    (["--gpus=GPU-simulated-2"], {}, ["gpu:2"]), ([], {"GPU_IDS": "0,2"}, ["gpu:0", "gpu:2"]),
    (["--gpus=all"], {"GPU_IDS": "0"}, ["gpu:0", "gpu:1", "gpu:2", "gpu:3"])])
def test_gpus_of_the_server(serve, tmp_path, flags, env, where):
    sim_model(tmp_path / "models", "echo", instance_group=gpu_group())
    assert places(serve(tmp_path / "models", GPUS, *flags, env=env)) == where


@pytest.mark.parametrize("flags, env, words", [
    (["--gpus=4"], {}, 'there is no GPU "4"; there are: 0 (GPU-simulated-0)'), (["--gpus=1,1"], {}, "named twice"),
    (["--gpus=0,GPU-simulated-1"], {}, "mixes indices and UUIDs"), (["--gpus=many"], {}, "neither an index nor a UUID"),
    ([], {"GPU_IDS": "7"}, "GPU_IDS: there is no GPU 7"), ([], {"GPU_IDS": "0,0"}, "named twice")])
def test_wrong_gpus_of_the_server(tmp_path, flags, env, words):
    """Also where no model wants one: what the operator says has to be true."""
    sim_model(tmp_path / "models", "echo", instance_group="{ kind: KIND_CPU }")
    done = run_muster("serve", tmp_path / "models", GPUS, *flags, "--http-port=0", "--grpc-port=0", "--metrics-port=0",
                      "--control-socket", tmp_path / "socket", cwd=tmp_path, env=env)
    assert done.returncode == 1 and words in done.stderr.replace("\\", ""), done.stderr


def test_models_on_gpus_that_are_not_there(serve, tmp_path):
    """Each says so and what there is; others are not touched."""
    models = tmp_path / "models"
    sim_model(models, "good", instance_group=gpu_group("0"))
    sim_model(models, "beyond", instance_group=gpu_group("0, 4"))
    sim_model(models, "hidden", instance_group=gpu_group("3"))
    put_model(models, "real", "identity.onnx", "instance_group { kind: KIND_GPU }")
    server = serve(models, GPUS, "--gpus=0-2", wait=False)
    server.wait_state("degraded")
    refused(server, "beyond", "there is no GPU 4 that the server may use; it may use: 0 (simulated GPU, GPU-simulated-0)")
    refused(server, "hidden", "there is no GPU 3")
    refused(server, "real", "engine onnxruntime cannot run on a simulated GPU")
    assert echo(server, 1, model="good").status == 200


@pytest.mark.parametrize("flags, env, words", [
    (["--nvml-library=/no/such/library"], {}, "no GPU can be used here"), (["--gpus=none"], {}, "--gpus=none")])
def test_no_gpu_at_all(serve, tmp_path, flags, env, words):
    """KIND_GPU fails with the reason and the cure; a model for the CPU is served."""
    sim_model(tmp_path / "models", "gpu", instance_group=gpu_group())
    sim_model(tmp_path / "models", "cpu")
    server = serve(tmp_path / "models", *flags, wait=False, env=env)
    server.wait_state("degraded")
    refused(server, "gpu", words, "KIND_CPU", "--simulate-gpus")
    assert echo(server, 1, model="cpu").status == 200


# ---- memory ----------------------------------------------------------------------------------------------------------

def memory_of(folder, **models):
    (folder / "muster.yaml").write_text("models:\n" + "".join(f"  {name}: {{gpu_memory: {size}}}\n"
                                                               for name, size in models.items()))


def test_what_does_not_fit_shows_the_sum(serve, tmp_path):
    """A simulated GPU has 80 GiB. What fits is served."""
    models = tmp_path / "models"
    sim_model(models, "a_large", instance_group=gpu_group("0"))
    sim_model(models, "b_larger", instance_group=gpu_group("0, 1"))
    sim_model(models, "c_small", instance_group=gpu_group("0"))
    memory_of(tmp_path, a_large="30GiB", b_larger="20GiB")
    server = serve(models, "--simulate-gpus=2", "--processes-per-gpu=2", wait=False, cwd=tmp_path)
    server.wait_state("degraded")
    refused(server, "b_larger", "2 processes of b_larger need 2 x (20.0 GiB, as --gpu-memory says) = 40.0 GiB",
            "GPU 0 has 80.0 GiB, of which 0 MiB are used by others and 60.0 GiB by other models of this server")
    assert places(server, "a_large") == ["gpu:0", "gpu:0"]
    assert echo(server, 1, model="c_small").status == 200


def test_a_reload_places_anew(serve, tmp_path):
    """A model that does not fit is refused, and the one that runs stays; room is there again when another one has left."""
    models = tmp_path / "models"
    sim_model(models, "first", instance_group=gpu_group("0"))
    sim_model(models, "second", instance_group=gpu_group("0"))
    memory_of(tmp_path, first="50GiB", second="20GiB")
    server = serve(models, "--simulate-gpus=1", cwd=tmp_path)
    memory_of(tmp_path, first="50GiB", second="40GiB")
    assert run_muster("reload", "--control-socket", server.socket).returncode == 0, "what runs is not refused"
    (models / "second" / "config.pbtxt").write_text(
        sim_config(dims=16, instance_group=gpu_group("0"), max_batch_size=3))
    done = run_muster("reload", "--control-socket", server.socket)
    assert done.returncode == 1 and "1 process of second needs" in done.stderr + done.stdout
    assert echo(server, 1, model="second").status == 200
    shutil.rmtree(models / "first")
    done = run_muster("reload", "--control-socket", server.socket)
    assert done.returncode == 0, done.stderr
    assert echo(server, 1, model="second").status == 200


# ---- starting --------------------------------------------------------------------------------------------------------

def test_only_so_many_load_at_once(serve, tmp_path):
    """The others wait for their turn, on each GPU by itself."""
    flags = "--simulate-gpus=2", "--processes-per-gpu=3", "--load-parallel=1"
    sim_model(tmp_path / "models", "slow", instance_group=gpu_group(), load_ms=100)
    server = serve(tmp_path / "models", *flags, wait=False)
    wait_for(server.status, "its control socket")

    def all_ready():
        states = [(worker["device"], worker["state"]) for worker in server.workers("slow")]
        for gpu in ("gpu:0", "gpu:1"):
            assert sum(device == gpu and state in ("loading", "warming") for device, state in states) <= 1, states
        return {state for _, state in states} == {"ready"}
    wait_for(all_ready, "all workers ready")

    server = serve(sim_model(tmp_path / "stuck", "stuck", instance_group=gpu_group(), load_ms=3_600_000), *flags, wait=False)
    wanted = sorted((gpu, state) for gpu in ("gpu:0", "gpu:1") for state in ("loading", "queued", "queued"))
    wait_for(lambda: sorted((worker["device"], worker["state"]) for worker in server.status().get("workers", [])) == wanted, "one of each to load")


def test_one_that_cannot_load_lets_the_next_one(serve, tmp_path):
    sim_model(tmp_path / "models", "broken", instance_group=gpu_group(), load_fail=1)
    sim_model(tmp_path / "models", "crash", instance_group=gpu_group(), load_crash=1)
    sim_model(tmp_path / "models", "good", instance_group=gpu_group())
    server = serve(tmp_path / "models", "--simulate-gpus=1", "--load-parallel=1", wait=False)
    server.expected_to_crash = True
    wait_for(server.status, "its control socket")
    wait_for(lambda: server.get("/v2/models/good/ready").status == 200, "the good one")


# ---- GPUs of a machine, as NVML shows them --------------------------------------------------------------------------

def test_indices_of_unlike_gpus(serve, tmp_path):
    """CUDA might number them in another way: refused, with the UUIDs that may be written instead."""
    machine = FakeNvml(tmp_path, [gpu(0, name="NVIDIA T4", compute_capability=[7, 5]), gpu(1)])
    sim_model(tmp_path / "models", "echo", instance_group=gpu_group())
    server = serve(tmp_path / "models", wait=False, env={**machine.environment, "CUDA_VISIBLE_DEVICES": "1"})
    server.wait_state("degraded")
    refused(server, "echo", "CUDA_DEVICE_ORDER=PCI_BUS_ID", gpu(0)["uuid"], gpu(1)["uuid"])
    server = serve(tmp_path / "models",
                   env={**machine.environment, "CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert [worker["gpu"] for worker in server.workers("echo")] == [gpu(1)["uuid"]]


@pytest.mark.parametrize("visible, words", [
    ("", "set and empty"), ("-1", "CUDA_VISIBLE_DEVICES=-1 hides every GPU"), ("0,0", "named twice"), ("7", 'no GPU "7"'),
    (f"0,{gpu(1)['uuid']}", "mixes indices and UUIDs"), ("2", "divided into MIG devices"), ("3", "PROHIBITED")])
def test_visible_devices_that_leave_no_gpu(serve, tmp_path, visible, words):
    """The variable may be another one's doing: only the model that wants a GPU fails by it."""
    mig = {"uuid": "MIG-00000002-1111-0000-0000-000000000000", "name": "NVIDIA H200 MIG 1g.18gb"}
    machine = FakeNvml(tmp_path, [gpu(0), gpu(1), gpu(2, mig=[mig]), gpu(3, compute_mode=2)])
    sim_model(tmp_path / "models", "gpu", instance_group=gpu_group())
    sim_model(tmp_path / "models", "cpu", instance_group="{ kind: KIND_CPU }")
    server = serve(tmp_path / "models", wait=False, env={**machine.environment, "CUDA_VISIBLE_DEVICES": visible})
    server.wait_state("degraded")
    refused(server, "gpu", words)
    assert echo(server, 1, model="cpu").status == 200


def test_what_workers_take_is_measured_and_kept(serve, tmp_path):
    machine, kept = FakeNvml(tmp_path, [gpu(0)]), tmp_path / "kept.json"
    sim_model(tmp_path / "models", "echo", instance_group=gpu_group())
    server = serve(tmp_path / "models", f"--measurements={kept}", "--metrics-interval-ms=50", env=machine.environment)
    machine.machine["gpus"][0]["processes"] = [{"pid": server.workers("echo")[0]["pid"], "memory": 1234 << 20}]
    machine.write()
    wait_for(kept.exists, "the measurement")
    assert json.loads(kept.read_text())["measurements"] == [
        {"model": "echo", "version": 1, "file_bytes": 0, "process_bytes": 1234 << 20}]
    done = run_muster("plan", "placement", tmp_path / "models", f"--measurements={kept}", env=machine.environment)
    assert done.returncode == 0 and "1 process x 1 instance, each 1,234 MiB, measured" in done.stdout, done.stdout + done.stderr


# ---- muster plan -----------------------------------------------------------------------------------------------------

def plan(*arguments, **options):
    return run_muster("plan", "placement", *arguments, **options)


def test_a_plan(tmp_path):
    """The same as a server would do, and nothing is started."""
    models = tmp_path / "models"
    sim_model(models, "on_cpu", instance_group="{ kind: KIND_CPU }")
    sim_model(models, "on_gpu", instance_group=gpu_group("1", count=2), gpu_memory_mib=1500)
    done = plan(models, "--simulate-gpus=2", "--processes-per-gpu=6", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(entry["gpu"], entry["processes"], entry["planned_bytes"]) for entry in found["gpus"]] == [
        ("0", 0, 0), ("1", 6, 6 * 2000 << 20)]
    assert found["gpus"][1]["left_bytes"] == (80 << 30) - (6 * 2000 << 20)
    assert {entry["model"]: entry["devices"] for entry in found["models"]} == {
        "on_cpu": [{"device": "cpu", "gpu": None, "processes": 1, "instances": 1}],
        "on_gpu": [{"device": "gpu:1", "gpu": "GPU-simulated-1", "processes": 6, "instances": 2}]}
    table = plan(models, "--simulate-gpus=2", "--processes-per-gpu=6").stdout
    assert "gpu:1    6 processes x 2 instances, each 500 MiB context + 1,500 MiB weights + 0 MiB arena, estimated" in table


@pytest.mark.parametrize("arguments, words", [
    (["--simulate-gpus=1", "--gpu-memory=90GiB"], "1 process of echo needs 1 x (90.0 GiB, as --gpu-memory says)"),
    (["--nvml-library=/no/such/library"], "/no/such/library"), (["--simulate-gpus=1", "--device=gpu:3"], "there is no GPU 3")])
def test_a_plan_that_cannot_be(tmp_path, arguments, words):
    done = plan(sim_model(tmp_path / "models", instance_group=gpu_group()), *arguments)
    assert done.returncode == 1 and "CANNOT BE SERVED" in done.stdout and words in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("arguments, code, words", [
    (["plan"], 2, "there is `placement`"), (["plan", "lunch"], 2, "there is `placement`"),
    (["plan", "placement"], 1, "no model"), (["plan", "placement", "/no/such/models"], 1, "/no/such/models"),
    (["plan", "placement", "--simulate-gpu=2"], 2, "simulate-gpus")])
def test_plans_of_nothing(arguments, code, words):
    done = run_muster(*arguments)
    assert done.returncode == code and words in done.stderr, done.stderr


def test_a_plan_while_nvml_hangs(tmp_path):
    machine = FakeNvml(tmp_path, [gpu(0)], hang=["nvmlDeviceGetTemperature"])
    models = sim_model(tmp_path / "models")
    for timeout in ("200ms", "2s", "20s"):  # the longer ones for a machine that does not get as far as the call
        done = plan(models, f"--nvml-timeout={timeout}", env=machine.environment)
        if "nvmlDeviceGetTemperature" in done.stderr:
            break
    assert done.returncode == 1 and "nvmlDeviceGetTemperature" in done.stderr, done.stdout + done.stderr
