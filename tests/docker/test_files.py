"""The container files: a linter, a parser of the Compose specification, and what we promise about them."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import compose_spec
import pytest
import yaml

from tests.docker.dockerfile import interpolated, read
from tests.slurm.cluster import missing_programs
from tests.slurm.conftest import demand

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE = DOCKER / "compose.yaml"
VARIABLES = {"PLASTICINE_DB_PASSWORD": "sesame"}
BASE = r"python:3\.11\.\d+-slim-bookworm"


def composed() -> dict:
    return yaml.safe_load(interpolated(COMPOSE.read_text(), VARIABLES))


def hadolint(path: Path) -> str:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_has_nothing_to_say(path, tmp_path):
    assert {file.name for file in DOCKERFILES} == {"cpu.Dockerfile", "gpu.Dockerfile"}
    assert hadolint(path) == ""
    worse = tmp_path / "Dockerfile"
    worse.write_text(re.sub(BASE, "python:latest", path.read_text()))
    assert "DL3007" in hadolint(worse)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_run_as_an_ordinary_user(path):
    stages = read(path)
    named = {stage.name for stage in stages if stage.name}
    for stage in stages:
        assert stage.base in named or re.fullmatch(BASE, stage.base), stage.base
        if stage.steps:
            assert stage.last("USER").text == "1000"
            assert stage.last("HEALTHCHECK").text
            assert stage.steps.index(stage.last("USER")) < stage.steps.index(stage.last("ENTRYPOINT"))
    pip = [step.text for stage in stages for step in stage.all("RUN") if "pip install" in step.text]
    assert pip
    assert all("constraints.txt" in text for text in pip)
    assert stages[0].all("ARG")[0].text.startswith("DEBIAN_SNAPSHOT=2")
    assert stages[-1].base == "plasticine" or len(stages) == 1  # what `docker build` makes if nothing is said


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(path):
    rules = (DOCKER / f"{path.name}.dockerignore").read_text().splitlines()
    wanted = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    copied = {word for stage in read(path) for step in stage.all("COPY") for word in step.words[:-1]}
    assert copied <= wanted
    assert all((ROOT / name).exists() for name in wanted)
    assert not [name for name in wanted if (DOCKER / ".env").is_relative_to(ROOT / name)]


def test_the_two_images_differ_in_what_a_gpu_needs_and_nothing_else():
    cpu, gpu = (read(DOCKER / f"{name}.Dockerfile")[0] for name in ("cpu", "gpu"))
    ours, theirs = ({*map(str, stage.steps)} for stage in (cpu, gpu))
    only = [text for text in ours ^ theirs]
    assert all(re.search("TORCH_INDEX|NVIDIA|gcc|libosmesa6", text) for text in only), only
    assert len(only) == 5
    assert "libegl1 libgl1 libosmesa6" in cpu.all("RUN")[1].text
    definition = (DOCKER / "apptainer.def").read_text()
    assert re.search(rf"^From: {BASE}$", definition, re.MULTILINE)
    assert gpu.base in definition
    for step in gpu.all("RUN")[1:4]:  # Debian packages, torch, Plasticine
        for part in step.text.split(" && "):
            if "useradd" not in part:
                plain = part.replace(
                    '${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}', '${index:+--index-url "$index"}'
                )
                assert plain.strip() in definition, plain
    files = definition.partition("%files")[2].partition("%post")[0]
    for line in filter(None, map(str.strip, files.splitlines())):
        assert (ROOT / line.split()[0]).exists(), line


# -- Compose ---------------------------------------------------------------------------------------------------
def test_the_compose_file_follows_the_specification():
    text = interpolated(COMPOSE.read_text(), VARIABLES)
    parsed = compose_spec.PyCompose.from_yaml(text)
    assert set(parsed.service_names()) == {"db", "mlflow", "worker", "slurm"}
    for before, after in (
        ("healthcheck:", "helthcheck:"),
        ("start_period: 60s", "start_period: soon"),
        ('["127.0.0.1:5000:5000"]', "5000"),
    ):
        assert before in text
        with pytest.raises(ValueError, match="services"):
            compose_spec.PyCompose.from_yaml(text.replace(before, after, 1))


def test_services_are_healthy_unprivileged_and_reachable_from_this_machine_only():
    content = composed()
    for name, service in content["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert service.get("network_mode") is None, name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service["networks"]) <= set(content["networks"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in content["volumes"] or source == "../work", name
        if "build" in service:
            file = ROOT / service["build"]["dockerfile"]
            target = service["build"].get("target")
            assert target is None or target in {stage.name for stage in read(file)}
        else:
            assert re.fullmatch(r"postgres:\d+\.\d+-bookworm", service["image"])
            assert service["user"] == "999:999"
    assert content["networks"]["inside"] == {"internal": True}
    assert content["services"]["db"]["networks"] == ["inside"]
    assert "ports" not in content["services"]["db"]


def test_there_is_no_password_but_the_one_that_is_made(tmp_path):
    with pytest.raises(KeyError, match="make_env"):
        interpolated(COMPOSE.read_text(), {})
    for path in DOCKER.iterdir():
        if path.is_file() and path.name != ".env":
            for found in re.findall(r"(?i)(?:password|secret|token)\w*[:=]\s*(\S+)", path.read_text()):
                assert found.startswith(('"${', "$password", "$(od")), f"{path.name}: {found}"
    folder = tmp_path / "docker"
    folder.mkdir()
    shutil.copy(DOCKER / "make_env.sh", folder)
    made = []
    for _ in range(2):
        subprocess.run(["sh", str(folder / "make_env.sh")], check=True)
        made.append(dict(line.split("=") for line in (folder / ".env").read_text().splitlines()))
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
        again = subprocess.run(["sh", str(folder / "make_env.sh")], capture_output=True, check=False)
        assert again.returncode == 1  # a database keeps its first password
        (folder / ".env").unlink()
    assert all(re.fullmatch("[0-9a-f]{48}", one["PLASTICINE_DB_PASSWORD"]) for one in made)
    assert made[0]["PLASTICINE_DB_PASSWORD"] != made[1]["PLASTICINE_DB_PASSWORD"]
    interpolated(COMPOSE.read_text(), made[0])
    ignored = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=ROOT, check=False)
    assert ignored.returncode in (0, 128)  # 128: not a checkout, as in an unpacked source archive


# -- scripts ---------------------------------------------------------------------------------------------------
def test_debian_packages_come_from_one_day(tmp_path):
    sources = tmp_path / "debian.sources"
    text = (
        "Types: deb\nURIs: http://deb.example.org/debian\nSuites: bookworm\nSigned-By: a.gpg\n\n"
        "Types: deb\nURIs: http://deb.example.org/debian-security\nSuites: bookworm-security\nSigned-By: a.gpg\n"
    )
    sources.write_text(text)
    script = ["sh", str(DOCKER / "debian_snapshot.sh")]
    subprocess.run([*script, "", str(sources)], check=True)
    assert sources.read_text() == text
    subprocess.run([*script, "20251101T000000Z", str(sources)], check=True)
    found = sources.read_text()
    archive = "http://snapshot.example.org/archive"
    assert f"URIs: {archive}/debian/20251101T000000Z\nCheck-Valid-Until: no\nSuites: bookworm\n" in found
    assert f"URIs: {archive}/debian-security/20251101T000000Z\nCheck-Valid-Until: no\n" in found
    refused = subprocess.run([*script, "20251101T000000Z", str(sources)], capture_output=True, check=False)
    assert refused.returncode == 1  # it is not what it expects, and does not go on silently


def test_the_entry_of_the_slurm_container_brings_a_cluster_up_and_down(tmp_path_factory):
    demand(missing_programs())
    folder = Path(tmp_path_factory.mktemp("c", numbered=True))
    for name in ("docker/slurm_node.sh", "tests/slurm/cluster.py"):
        shutil.copy(ROOT / name, folder)  # where the image has them, side by side
    home = Path(subprocess.check_output(["mktemp", "-d", "/tmp/slurm.XXXXXX"], text=True).strip())
    home.chmod(0o755)  # munged insists
    try:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin"
        environment = {"SLURM_CONF": str(home / "c" / "slurm.conf"), "PATH": path}
        done = subprocess.run(
            ["bash", str(folder / "slurm_node.sh"), "srun", "hostname"], env=environment, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == subprocess.check_output(["hostname"], text=True).strip()
        pid = (
            int((home / "c" / "slurmctld.pid").read_text())
            if (home / "c" / "slurmctld.pid").exists()
            else None
        )
        assert pid is None or not Path(f"/proc/{pid}").exists()  # nothing is left behind
    finally:
        shutil.rmtree(home, ignore_errors=True)
