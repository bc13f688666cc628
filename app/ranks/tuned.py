"""What `phalanx tune` has measured, looked up before any rank starts: the defaults of this model on this machine.

They go below whatever the operator gave, and are handed to the ranks as if the operator had given them: just as they
were measured.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from app.logs import get_logger
from app.ranks.devices import Allotment, allot
from app.settings.declaration import BUILT_IN_MODEL, SIMULATED_MODEL, Settings, SettingsError
from app.settings.folders import tuned_folder
from app.settings.sharing_checks import sharing_contradictions
from engines.contract.spec import EngineKind
from engines.contract.tuned import (
    DECIDING_SEQUENCES,
    STEP_TOKENS,
    SUFFIX,
    Site,
    Tuned,
    TunedFileError,
    fitting,
    read_tuned,
    site_model,
)
from engines.host.installed import vllm_version

logger = get_logger("ranks")
TILES = "VLLM_TUNED_CONFIG_FOLDER"
OF_THE_SITE = ("enforce_eager", "speculative_config")  # of what decides the graphs: they make another engine
SEARCHED = (*(name for name in DECIDING_SEQUENCES if name not in OF_THE_SITE), STEP_TOKENS)
HOW_EXPERTS_LIE, SHARING = "expert_parallel", "ranks_per_gpu"


class Taken(msgspec.Struct, frozen=True):
    """What is taken of it."""

    arguments: dict[str, Any] = {}  # of the engine, none of which the operator gave; Any: its argument values
    expert_parallel: bool | None = None  # None: as it would be anyway
    ranks_per_gpu: int | None = None  # the same
    variables: dict[str, str] = {}  # of the ranks' environment


NOTHING = Taken()


def site_of(settings: Settings, machine: str, dp_size: int) -> Site:
    """Where the service is about to run, as far as speed depends on it. `machine` is the allotment's."""
    is_simulated = settings.engine is EngineKind.SIMULATED
    given = {name: value for name, value in settings.engine_arguments().items() if name != "seed"}
    held = {name: value for name, value in given.items() if name in SEARCHED}
    held |= {name: getattr(settings, name) for name in (HOW_EXPERTS_LIE, SHARING) if name in settings.model_fields_set}
    arguments = {name: value for name, value in given.items() if name not in SEARCHED}
    if machine.startswith("CPU") and not is_simulated:
        arguments["cpu_kv_cache_gib"] = settings.cpu_kv_cache_gib
    return Site(
        model=site_model(settings.model or (SIMULATED_MODEL if is_simulated else BUILT_IN_MODEL)),
        engine="simulated" if is_simulated else f"vllm {vllm_version()}",
        machine=machine,
        dp_size=dp_size,
        tp_size=settings.tp_size,
        executor=settings.executor.value,
        arguments=arguments,
        extra_args=settings.extra_args,
        held=held,
    )


def sharing(
    settings: Settings, allotment: Allotment, many: int, environ: Mapping[str, str]
) -> tuple[Settings, Allotment]:
    """With so many ranks where the allotment has one. Raises SettingsError where that cannot be."""
    dp_size = many * len(allotment.shares)
    shared = settings.model_copy(update={SHARING: many, "dp_size": dp_size})
    for problem in sharing_contradictions(shared):
        raise SettingsError(problem)
    return shared, allot(shared, environ)


def take_tuned(
    settings: Settings, allotment: Allotment, environ: Mapping[str, str]
) -> tuple[Settings, Allotment, Taken]:
    """What was found for these settings, and what becomes of them by it: where several ranks on each GPU were the
    fastest, there are as many for each rank that was asked for."""
    taken = look_up(settings, allotment.machine, len(allotment.shares), environ)
    if taken.ranks_per_gpu is None:
        return settings, allotment, taken
    try:
        return *sharing(settings, allotment, taken.ranks_per_gpu, environ), taken
    except SettingsError as error:
        logger.warning("tuned_sharing_left_out", reason=str(error))
        return settings, allotment, replace(taken, ranks_per_gpu=None)


def look_up(settings: Settings, machine: str, dp_size: int, environ: Mapping[str, str]) -> Taken:
    """What is taken of the file for this site, and said in the log. Files that do not serve are no reason to stop.

    What was measured with what the operator has set comes before what was found when all of it was open, and that is
    fitted to it. What was measured on one machine says nothing of ranks on several. `environ` is the ranks', and has a
    HOME.
    """
    if not settings.tuned or settings.node_size > 1 or settings.launcher == "ray":
        return NOTHING
    site = site_of(settings, machine, dp_size)
    files = dict(_files(tuned_folder(settings, environ)))
    path = _file_for(site, files) or _file_for(replace(site, held={}), files)
    if path is None:
        _say_near_miss(files, site)
        return NOTHING
    tuned = files[path]
    taken = _taken(settings, tuned, environ)
    logger.info(
        "tuned_settings_taken",
        file=str(path),
        candidate=tuned.candidate,
        arguments=taken.arguments,
        left_out=_left_out(tuned, taken),
        expert_parallel=taken.expert_parallel,
        ranks_per_gpu=taken.ranks_per_gpu,
        measured_at=tuned.measured_at,
        gain=round(tuned.tokens_per_s / tuned.baseline_tokens_per_s, 2) if tuned.baseline_tokens_per_s else None,
    )
    return taken


def _file_for(site: Site, files: Mapping[Path, Tuned]) -> Path | None:
    return next((path for path, tuned in files.items() if tuned.site == site), None)


def _taken(settings: Settings, tuned: Tuned, environ: Mapping[str, str]) -> Taken:
    is_free = HOW_EXPERTS_LIE not in settings.model_fields_set
    shares = SHARING not in settings.model_fields_set and (is_free or not settings.expert_parallel)
    has_tiles = tuned.tiles_folder is not None and TILES not in environ and Path(tuned.tiles_folder).is_dir()
    return Taken(
        arguments=fitting(tuned.arguments, settings.engine_arguments()),
        expert_parallel=tuned.expert_parallel if is_free else None,
        ranks_per_gpu=tuned.ranks_per_gpu if shares else None,
        variables={TILES: str(tuned.tiles_folder)} if has_tiles else {},
    )


def _left_out(tuned: Tuned, taken: Taken) -> list[str]:
    """What the operator's own excludes, and tiles that are gone."""
    names = [name for name in tuned.arguments if name not in taken.arguments]
    if tuned.expert_parallel is not None and taken.expert_parallel is None:
        names.append(HOW_EXPERTS_LIE)
    if tuned.ranks_per_gpu is not None and taken.ranks_per_gpu is None:
        names.append(SHARING)
    return names if tuned.tiles_folder is None or taken.variables else [*names, TILES]


def _files(folder: Path) -> Iterator[tuple[Path, Tuned]]:
    """Those that can be used. The others are named in the log."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            yield path, read_tuned(path)
        except TunedFileError as error:
            logger.warning("tuned_file_ignored", file=str(path), reason=str(error))


def _say_near_miss(files: Mapping[Path, Tuned], site: Site) -> None:
    """The model was tuned, and something has changed since: whoever did it believes that it is used."""
    of_model = [(tuned.measured_at, path) for path, tuned in files.items() if tuned.site.model == site.model]
    if of_model:
        _, path = max(of_model)
        difference = site.difference(files[path].site)
        logger.warning("tuned_file_ignored", file=str(path), reason=f"{difference}: run `phalanx tune` again")
