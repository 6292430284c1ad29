"""A Slurm of one node on loopback, with 2 processors and 2 pretended GPUs, as root."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
START_S = 30.0
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={top}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd.pid
SlurmctldLogFile={top}/slurmctld.log
SlurmdLogFile={top}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Slurm, while the block lasts; skips the test where it cannot run."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine; make test-slurm installs them")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Slurm of its own")
    top = Path(tempfile.mkdtemp(prefix="slurm-"))
    top.chmod(0o755)  # munge refuses a socket that others cannot reach
    started: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", PATH)
        patch.setenv("SLURM_CONF", str(_configured(top)))
        try:
            for command in _commands(top):
                with (top / f"{command[0]}.out").open("wb") as out:
                    started.append(subprocess.Popen(command, stdout=out, stderr=out))
                time.sleep(0.3)
            _await_node(top)
            yield
            _await_jobs()
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()
            shutil.rmtree(top, ignore_errors=True)


def _configured(top: Path) -> Path:
    for name in ("state", "spool"):
        (top / name).mkdir()
    key = top / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    for number in range(2):
        # Slurm gives devices only; these are /dev/null
        os.mknod(top / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (top / "gres.conf").write_text(
        f"NodeName={host} Name=gpu Flags=nvidia_gpu_env File={top}/gpu[0-1]\n"
    )
    controller, node = _free_ports(2)
    path = top / "slurm.conf"
    path.write_text(CONF.format(top=top, host=host, controller=controller, node=node))
    return path


def _commands(top: Path) -> list[list[str]]:
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
    places = [f"--{option}={top}/munge.{name}" for option, name in munge.items()]
    return [
        ["munged", "--foreground", "--force", f"--log-file={top}/munge.log", *places],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D"],
    ]


def _await_node(top: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(path.read_text()[-800:] for path in sorted(top.glob("*.[lo][ou][gt]")))
    pytest.fail(f"Slurm did not start: {told.stdout} {told.stderr}\n{logs}")


def _await_jobs() -> None:
    """Cancel what is left in the queue: a job would outlive its Slurm."""
    subprocess.run(["scancel", "--me"], check=True)
    end = time.monotonic() + START_S
    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [server.getsockname()[1] for server in servers]
