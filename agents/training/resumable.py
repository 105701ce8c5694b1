"""Read the configuration of a run's folder, to go on with the run: what `--resume` does first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from ..saving.folders import CONFIG, read_object
from ..saving.run_paths import from_here
from ..saving.untrusted import describe_problem
from .fields import Settings

__all__ = ["Resumable"]


class Resumable(Settings):
    """Hold a configuration that a run's folder keeps.

    Attributes:
        kind: what it configures, with a field that all of them have.
        free: the flags that may change with `--resume`.
        more: flags that `--resume` may raise.
    """

    kind: ClassVar[tuple[str, str]]
    free: ClassVar[tuple[str, ...]] = ()
    more: ClassVar[tuple[str, ...]] = ()

    def check_imports(self, source: str, given: Any) -> None:
        """Raise ValueError if this configuration, which a file has, would import or ask what is not `given` too."""
        raise NotImplementedError

    @classmethod
    def of_folder(cls, folder: str | Path, given: Resumable | None = None) -> Self:
        """Return the configuration of a run's folder, with the flags `given` next to `--resume`.

        An environment or a reward to import has to be among the flags: a file imports nothing, whoever wrote it.

        Raises:
            ValueError: it is no folder of this kind, or a flag that is not `free` disagrees with the run.
        """
        path = Path(folder) / CONFIG
        if not path.is_file():
            raise ValueError(f"--resume {folder}: no run's folder, it has no {CONFIG}")
        kind, needs = cls.kind
        try:
            values = from_here(read_object(path), folder)
            if needs not in values:
                raise ValueError(f"it has no {needs}")
            saved = cls(**values)
        except ValueError as error:
            problem = describe_problem(error) if isinstance(error, ValidationError) else error
            raise ValueError(f"{path} is not the configuration of a {kind}: {problem}") from error
        changed = {}
        for name in sorted(given.model_fields_set & cls.model_fields.keys() if given is not None else ()):
            value, before = getattr(given, name), getattr(saved, name)
            if name in cls.free or (name in cls.more and value is not None and before is not None and value > before):
                changed[name] = value
            elif not (value.items() <= before.items() if isinstance(value, dict) else value == before):
                flag = f"--{name.replace('_', '-')}" if name not in cls.more else "-n"
                more = f", or give more than {before} to extend it" if name in cls.more else ""
                has = f"the run in {folder} has {before}"
                if name not in values:
                    has = f"the {CONFIG} in {folder} is of a release without that flag, so the run has {before} of it"
                raise ValueError(f"{flag} {value} with --resume: {has}; leave the flag out{more}")
        saved.check_imports(str(path), cls() if given is None else given)
        return saved.model_copy(update=changed)
