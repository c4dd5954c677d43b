"""A private PostgreSQL of Debian's package: its own folder, its own port on loopback, a password."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path


def programs() -> Path | None:
    """Folder of initdb and pg_ctl, which Debian does not put on PATH; None if they are not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """One server with a database ``mlflow`` of a user ``mlflow``. As root it runs as the user ``postgres``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg."))
        self.password = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else None

    def start(self) -> None:
        """Make the database and start the server.

        Raises:
            RuntimeError: It does not come up.
        """
        (self.folder / "password").write_text(self.password)
        if self._user is not None:
            for path in (self.folder, self.folder / "password"):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        data = str(self.folder / "data")
        self._run(
            "initdb", "-D", data, "-U", "mlflow", f"--pwfile={self.folder}/password", "--auth=scram-sha-256",
            "--encoding=UTF8", "--no-sync",
        )  # fmt: skip
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(self.folder / "log"), "start")
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "mlflow")

    def stop(self) -> None:
        """End it and remove everything."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *words: str) -> None:
        folder = programs()
        assert folder is not None
        with open(self.folder.with_suffix(".out"), "w+b") as out:  # a pipe would be held open by the server
            done = subprocess.run(
                [str(folder / program), *words], cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={"PATH": os.environ["PATH"], "PGPASSWORD": self.password, "LC_ALL": "C"}, check=False,
                **({"user": self._user.pw_uid, "group": self._user.pw_gid} if self._user else {}),
            )  # fmt: skip
            out.seek(0)
            said = out.read().decode(errors="replace")
        self.folder.with_suffix(".out").unlink()
        if done.returncode:
            raise RuntimeError(f"{program} ends with {done.returncode}:\n{said}")
