"""GIF files, the record of films, and their way to MLflow."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image, ImageSequence

from plasticine.tracking import gif
from plasticine.tracking.artifacts import Artifacts
from plasticine.tracking.follower import RunFollower
from plasticine.tracking.gif import write_gif
from plasticine.tracking.local import LocalLog
from plasticine.tracking.record import read_metrics
from plasticine.tracking.state import ForwardState
from plasticine.tracking.store import Store, open_store, resolve_uri
from plasticine.tracking.sync import sync

FOREVER = math.inf


def moving(count=5, height=20, width=30):
    """A white square that wanders to the right."""
    frames = []
    for i in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[5:10, 3 * i : 3 * i + 5] = (250, 120, 10)
        frames.append(frame)
    return frames


def frames_of(path):
    with Image.open(path) as image:
        return [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)], image.info


# -- files ---------------------------------------------------------------------------------------------------
def test_a_gif_shows_what_was_given(tmp_path):
    given = moving()
    write_gif(tmp_path / "deep" / "a.gif", given, 12.5)
    shown, info = frames_of(tmp_path / "deep" / "a.gif")
    assert len(shown) == 5
    assert info["duration"] == 80
    assert info["loop"] == 0
    scale = 7  # 30 pixels become 210
    for image, frame in zip(shown, given, strict=True):
        assert image.shape == (20 * scale, 30 * scale, 3)
        assert np.abs(image[::scale, ::scale].astype(int) - frame).max() <= 8
        assert np.array_equal(image[::scale, ::scale], image[scale - 1 :: scale, scale - 1 :: scale])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.gif"]


def test_large_images_keep_their_size_and_too_large_files_are_made_smaller(tmp_path, monkeypatch):
    write_gif(tmp_path / "plain.gif", moving(3, 180, 240), 15)
    assert frames_of(tmp_path / "plain.gif")[0][0].shape == (180, 240, 3)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (80, 100, 3), dtype=np.uint8) for _ in range(8)]  # doubled at first
    path, limit, widths = tmp_path / "noise.gif", 10**9, []
    for _ in range(3):
        monkeypatch.setattr(gif, "_MOST_BYTES", limit)
        write_gif(path, noise, 15)
        shown, _ = frames_of(path)
        assert len(shown) == 8
        widths.append(shown[0].shape[1])
        limit = path.stat().st_size - 1
    assert widths == [200, 100, 50]


def test_one_image_is_a_film_too(tmp_path):
    write_gif(tmp_path / "one.gif", moving(1), 200.0)
    shown, _ = frames_of(tmp_path / "one.gif")
    assert len(shown) == 1


def test_the_record_names_the_file(tmp_path):
    log = LocalLog(tmp_path)
    log.rewind({})
    log.log({"loss/value": 1.0}, 5)
    log.film("task-000", moving(), 15.0, 7, {"task": 0})
    log.log({"loss/value": 2.0}, 7)
    log.close("finished")
    record = read_metrics(tmp_path)
    (event,) = record.events
    assert (event.env_steps, event.kind) == (7, "video")
    assert event.facts == {"file": "videos/task-000.gif", "task": 0}
    assert len(frames_of(tmp_path / event.facts["file"])[0]) == 5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["m" in line for line in lines] == [True, False, True]


# -- to MLflow -----------------------------------------------------------------------------------------------
@pytest.fixture
def store(launch) -> Store:
    uri = resolve_uri(None, launch)
    return open_store(uri, "grid", launch)


def listed(shown) -> set[str]:
    return {a.path for a in shown.client.list_artifacts(shown.run.info.run_id, "videos")}


def filmed(log, number, count=5):
    log.film(f"task-{number:03d}", moving(count), 15.0, 10 * number + 9, {"task": number})


def test_films_are_sent_once_they_are_committed(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(9))
    filmed(log, 0)
    follower = RunFollower(run_dir)
    follower.push(store, FOREVER)
    shown = seen(launch)
    assert listed(shown) == set()
    log.commit(log.mark())
    assert not follower.push(store, FOREVER).pending
    assert listed(shown) == {"videos/task-000.gif"}
    filmed(log, 1)
    log.close("finished")
    assert not RunFollower(run_dir).push(store, FOREVER).pending  # another process goes on
    assert listed(shown) == {"videos/task-000.gif", "videos/task-001.gif"}
    assert ForwardState.load(run_dir).films == ["videos/task-000.gif", "videos/task-001.gif"]
    path = shown.client.download_artifacts(shown.run.info.run_id, "videos/task-001.gif")
    assert len(frames_of(path)[0]) == 5
    events = json.loads(shown.artifact("events.json"))["events"]
    assert [e["kind"] for e in events] == ["video", "video"]


def test_a_film_is_sent_once(launch, store, make_run, write_lines, monkeypatch):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(9))
    filmed(log, 0)
    sent = []
    send = Artifacts.send_films
    monkeypatch.setattr(Artifacts, "send_films", lambda self, paths: sent.append(paths) or send(self, paths))
    for step in range(10, 13):
        log.log({"loss/value": 1.0}, step)
        log.commit(log.mark())
        RunFollower(run_dir).push(store, FOREVER)
    assert sent == [["videos/task-000.gif"]]


def test_a_store_without_files_gets_its_films_later(launch, store, make_run, write_lines, seen, monkeypatch):
    from mlflow.exceptions import MlflowException

    run_dir = make_run(launch)
    log = write_lines(run_dir, range(9))
    filmed(log, 0)
    filmed(log, 1)
    log.close("finished")
    working, calls = store.client.log_artifact, []

    def failing(run_id, path, folder=None):
        calls.append(path)
        if path.endswith("001.gif"):
            raise MlflowException("no space")
        return working(run_id, path, folder)

    monkeypatch.setattr(store.client, "log_artifact", failing)
    result = RunFollower(run_dir).push(store, FOREVER)
    assert result.pending
    assert "no space" in result.reason
    assert ForwardState.load(run_dir).films == ["videos/task-000.gif"]
    monkeypatch.undo()
    assert not RunFollower(run_dir).push(store, FOREVER).pending
    shown = seen(launch)
    assert listed(shown) == {"videos/task-000.gif", "videos/task-001.gif"}
    assert shown.artifact("metrics.jsonl") == (run_dir / "metrics.jsonl").read_text()


def test_offline_runs_send_their_films_with_sync(launch, make_run, write_lines, seen):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(9))
    filmed(log, 0)
    log.close("finished")
    (done,) = sync([run_dir], None, launch)
    assert not done.pending
    assert listed(seen(launch)) == {"videos/task-000.gif"}


def test_after_a_return_to_a_checkpoint_the_new_film_replaces_the_old(
    launch, store, make_run, write_lines, seen
):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(9))
    mark = log.mark()
    filmed(log, 0)
    log.commit(log.mark())
    RunFollower(run_dir).push(store, FOREVER)
    log.rewind(mark)
    filmed(log, 0, count=3)
    log.close("finished")
    RunFollower(run_dir).push(store, FOREVER)
    shown = seen(launch)
    path = shown.client.download_artifacts(shown.run.info.run_id, "videos/task-000.gif")
    assert len(frames_of(path)[0]) == 3


def test_a_film_that_was_deleted_holds_nothing_up(launch, store, make_run, write_lines):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(9))
    filmed(log, 0)
    log.close("finished")
    (run_dir / "videos" / "task-000.gif").unlink()
    assert not RunFollower(run_dir).push(store, FOREVER).pending
