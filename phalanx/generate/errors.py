"""What ends `phalanx generate` before its time. The message is the sentence that the user reads."""


class JobError(Exception):
    """The job ends here. `exit_code` is the command's."""

    exit_code = 3


class UsageProblem(JobError):
    """The command or its input must be changed."""

    exit_code = 2


class ServiceProblem(JobError):
    """The service, the way to it or this machine failed. The same command again goes on where it stopped."""


class RowProblem(Exception):
    """No prompt can be made of a row. It is that row's own error."""
