"""A worker that torchrun has started beside the rank: it follows the rank's orders, and hears of nothing else."""

import gc
import os
import threading
import time

import setproctitle

from engines import logs
from engines.contract.spec import RankSpec
from engines.failures import report
from engines.rank.engine import EngineConfigError
from engines.vllm_engine.configuring import configure
from engines.vllm_engine.external_launcher.launch import Launch
from engines.vllm_engine.external_launcher.orders import Orders
from engines.vllm_engine.external_launcher.worker import Worker

logger = logs.get_logger(logs.RANK_LOGGER)
GUARDIAN_LIFELINE = 0  # its standard input, as the rank's
# torchrun ends all workers as soon as one has failed. What fails here mostly fails in the leader as well, which then
# says why to the gateway: that takes longer while both are starting.
LEADER_STARTS_S, LEADER_SPEAKS_S = 30.0, 4.0
EXIT_OK, EXIT_FAILED = 0, 1


def follow(spec: RankSpec, launch: Launch) -> int:
    """To its end. Returns its exit code."""
    setproctitle.setproctitle(spec.worker_title(launch.number))
    threading.Thread(target=_end_with_guardian, name="lifeline", daemon=True).start()
    patience_s = LEADER_STARTS_S
    try:
        worker = _loaded(spec, launch)
        patience_s = LEADER_SPEAKS_S
        nothing = Orders()
        worker.run(lambda _: nothing, lambda _: None)
        worker.close()
    except EngineConfigError as error:
        logger.error("worker_failed", worker=launch.number, reason=str(error))  # noqa: TRY400  where is no matter
    except Exception as error:  # noqa: BLE001  the edge: whatever vLLM raises
        how = report(error, with_message=spec.log_prompts)
        logger.error("worker_failed", worker=launch.number, exception=how)  # noqa: TRY400  without its message
    else:
        return EXIT_OK
    time.sleep(patience_s)
    return EXIT_FAILED


def _loaded(spec: RankSpec, launch: Launch) -> Worker:
    launch.bind_thread()
    worker = Worker(spec, configure(spec), log_stats=False)
    gc.collect()
    gc.freeze()  # as in the rank: what vLLM has made stays for good
    return worker


def _end_with_guardian() -> None:
    """The guardian would have ended this process: when it is gone itself, nobody else does."""
    while os.read(GUARDIAN_LIFELINE, 4096):
        pass
    os._exit(EXIT_FAILED)
