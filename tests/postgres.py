"""A PostgreSQL cluster of one's own: in a temporary folder, on a free port, gone afterwards."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

DEBIANS = Path("/usr/lib/postgresql")
USER, PASSWORD, DATABASE = "phalanx", "a secret", "journal"
MISSING = "there is no PostgreSQL server here: `apt-get install postgresql`, or put initdb and pg_ctl on the PATH"


def binaries() -> Path | None:
    """The folder with initdb; None where there is no server."""
    found = sorted(DEBIANS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Cluster:
    """Runs as another user when we are root, since PostgreSQL refuses root."""

    def __init__(self) -> None:
        folder = binaries()
        assert folder is not None, MISSING
        self._binaries = folder
        self._account = _other_account() if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="phalanx-postgres."))
        self._data = self.folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._account is not None:
            for path in (self.folder, password):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        authentication = ["--auth-host=scram-sha-256", "--auth-local=trust", f"--pwfile={password}"]
        self._run("initdb", "-D", str(self._data), "-U", USER, "-E", "UTF8", "--locale=C", *authentication)
        self.start()
        self.create(DATABASE)

    def url(self, database: str = DATABASE, password: str = PASSWORD) -> str:
        """For --journal-url."""
        return f"postgresql://{USER}:{password.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        """Another database."""
        self._run("createdb", "-h", str(self.folder), "-p", str(self.port), "-U", USER, database)

    def drop(self, database: str) -> None:
        """Whoever uses it is cut off."""
        self._run("dropdb", "-f", "-h", str(self.folder), "-p", str(self.port), "-U", USER, database)

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_connections=50"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash, as far as the data are concerned."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    def remove(self) -> None:
        """With all that is in it."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        account = self._account
        identity: dict[str, Any] = {}  # Any: arguments of Popen
        if account is not None:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with tempfile.TemporaryFile("w+") as said:  # the server would hold a pipe open
            environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C"}
            code = subprocess.run(
                command, check=False, stdout=said, stderr=said, cwd=self.folder, env=environment, **identity
            ).returncode
            said.seek(0)
            assert code == 0, f"{program}: {said.read()}"


def _other_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError(f"{getpass.getuser()} may not run PostgreSQL, and there is no user postgres or nobody")
