"""The batch script of a job array, written by submitit, and how it is handed to sbatch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from plasticine.launch.job import LaunchError
from plasticine.launch.slurm.profile import Profile

__all__ = ["LEFT", "ArrayScript", "clean_environment"]

#: Exit code of a job that has saved its runs and wants to be queued again.
LEFT = 85

_SBATCH_TIMEOUT = 120.0
#: What belongs to the submitter's own session or allocation and would mislead a job.
_OWN_PREFIXES = (
    "SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "PMI_", "PMIX_", "OMPI_", "SUBMITIT_",
)  # fmt: skip
_OWN = frozenset({
    "TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
    "JAX_COMPILATION_CACHE_DIR", "CUDA_CACHE_PATH", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DISPLAY",
})  # fmt: skip
_KEPT = frozenset({"SLURM_CONF"})  # which cluster


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job should inherit from the shell that submits it."""
    return {
        key: value
        for key, value in variables.items()
        if key in _KEPT or not (key in _OWN or key.startswith(_OWN_PREFIXES))
    }


class _Executor(SlurmExecutor):
    """submitit's writer of batch scripts; that it runs on a machine without SLURM is our business (dry runs)."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def text(self, command: str) -> str:
        return self._make_submission_file_text(command, "")

    def job_number(self, said: str) -> str:
        return self._get_job_id_from_submission_command(said)


@dataclass(frozen=True)
class ArrayScript:
    """The batch script of one array.

    Attributes:
        profile: What its jobs ask for.
        folder: Of the submission.
        code: Folder of the code snapshot; None: the code as it is when a job starts.
        name: Of the array.
        first: Index of the pack that its task 0 carries out.
        tasks: Their number.
        limit: Tasks that may run at the same time; None: as many as fit.
        after: Array that must be over before this one starts.
    """

    profile: Profile
    folder: Path
    code: Path | None
    name: str
    first: int
    tasks: int
    limit: int | None = None
    after: str | None = None

    def text(self) -> str:
        """Return the script."""
        profile = self.profile
        python = profile.python or shlex.quote(sys.executable)
        executor = _Executor(self.folder / "logs", python=python)
        extra = {"no-requeue": True} if not profile.requeue else {"requeue": True}
        executor.update_parameters(
            job_name=self.name, partition=profile.partition, account=profile.account, qos=profile.qos,
            time=profile.time, cpus_per_task=profile.cpus, mem=profile.mem, constraint=profile.constraint,
            gpus_per_node=profile.gpus or None, signal_delay_s=profile.signal_seconds, wckey=None,
            dependency=f"afterany:{self.after}" if self.after else None, stderr_to_stdout=True,
            array_parallelism=self.limit or self.tasks, setup=self._setup(), teardown=self._teardown(),
            srun_args=[f"--cpus-per-task={profile.cpus}", *profile.srun],
            additional_parameters={**extra, **profile.sbatch},
        )  # fmt: skip
        executor.parameters["map_count"] = self.tasks
        job = shlex.join([str(self.folder / "job.py"), str(self.folder), str(self.first)])
        return executor.text(f"{python} -u {job}")

    def submit(self) -> str:
        """Hand the script to sbatch; return the number of the array.

        Raises:
            LaunchError: SLURM refuses it or does not answer.
        """
        path = self.folder / f"array-{self.first}.sh"
        path.write_text(self.text(), encoding="utf-8")
        try:
            done = subprocess.run(
                ["sbatch", str(path)], env=clean_environment(os.environ), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=_SBATCH_TIMEOUT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LaunchError(f"sbatch did not answer within {_SBATCH_TIMEOUT:.0f} s") from error
        if done.returncode:
            raise LaunchError(f"SLURM refuses the jobs: {done.stderr.strip()}\n  the script: {path}")
        try:
            return _Executor(self.folder / "logs").job_number(done.stdout)
        except FailedSubmissionError as error:
            raise LaunchError(f"sbatch says {done.stdout.strip()!r}, which names no job") from error

    def _setup(self) -> list[str]:
        lines = list(self.profile.setup)
        if self.code is not None:
            lines.append(f'export PYTHONPATH={shlex.quote(str(self.code))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
        return lines

    def _teardown(self) -> list[str]:
        """Return what the shell does after the job's Python: here scontrol is at hand, in a container it is not."""
        again = f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.profile.max_requeues} ]'
        killed = f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.profile.retries} ]'
        lines = ["code=$?", 'job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"']
        if self.profile.requeue:
            lines += [
                # Only a job that nobody else has ended is queued again: not one that was cancelled.
                'mine() { scontrol -o show job "$job" | grep -q "JobState=RUNNING "; }',
                f'if [ $code -eq {LEFT} ] && {again} && mine; then scontrol requeue "$job" && exit 0; fi',
                f'if [ $code -eq 137 ] && {killed} && mine; then scontrol requeue "$job" && exit 0; fi',
            ]
        if self.profile.fail_fast:
            name = shlex.quote(self.name.rpartition(".")[0])
            lines += [
                f"if [ $code -eq 1 ]; then touch {shlex.quote(str(self.folder / 'stop'))}; "
                f'squeue -h -u "$USER" -o "%A %j" | grep {name} | cut -d" " -f1 | sort -u '
                "| xargs -r scancel --state=PENDING; fi"
            ]
        return [*lines, "exit $code"]


def write_entry(folder: Path) -> None:
    """Write the file that jobs start. A file, not ``python -m``: that would import from the current folder first."""
    lines: Sequence[str] = (
        "import sys", "", "from plasticine.launch.slurm.task import main", "", "sys.exit(main(sys.argv[1:]))", "",
    )  # fmt: skip
    (folder / "job.py").write_text("\n".join(lines), encoding="utf-8")
