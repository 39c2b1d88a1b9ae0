"""`--help` of each job names every option of its config, with its unit and its default."""

import pytest

from mgray import config
from mgray.config.keys import leaves
from tests.jobs.processes import ROOT, run_job_process

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[a-z]*.py"))


def squeezed(text: str) -> str:
    return "".join(text.split())  # argparse wraps its lines anywhere


@pytest.mark.parametrize("job", JOBS)
def test_help_shows_every_option_with_its_default(job: str) -> None:
    done = run_job_process(job, "--help")
    assert done.code == 0, done
    assert done.stderr == ""
    shown = squeezed(done.stdout)
    schema = getattr(config, f"{job.capitalize()}JobConfig")
    assert squeezed(f"usage: jobs/{job}.py") in shown
    assert squeezed(schema.__doc__) in shown
    assert "--configFILE" in shown
    for key, field in leaves(schema).items():
        default = field.default
        text = "none" if default is None else str(list(default) if isinstance(default, tuple) else default)
        assert f"--{key}" in shown, key
        assert squeezed(f"{field.description} [{text}]") in shown, key
