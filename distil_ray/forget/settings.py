"""The options of `distil-ray forget`."""

from dataclasses import dataclass

from distil_ray.cli.options import option
from distil_ray.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ForgetSettings:
    """Options of `distil-ray forget`."""

    recordings: tuple[str, ...] = option(
        (),
        "ids or URIs of the recordings, or ids of calls, separated by commas; a trailing slash selects all below, and"
        " *, **, ? and […] are patterns over a whole id or URI",
    )
    file: str = option("", "text file with one id or URI per line, taken literally")
    deleted_sources: bool = option(False, "all recordings that input.uri no longer lists")
    exports: tuple[str, ...] = option((), "folders (to=) of exports of this output, from which to remove them too")
    allow: bool = option(
        False, "the opposite: let runs transcribe these recordings again; with no recording named, all forgotten ones"
    )

    def __post_init__(self) -> None:
        named = bool(self.recordings or self.file)
        if self.allow and (self.deleted_sources or self.exports):
            raise SettingsError("allow=true: takes recordings or file only; leave out deleted_sources and exports")
        if self.deleted_sources and named:
            raise SettingsError(
                "deleted_sources=true: selects the recordings itself; leave out recordings and file, or do both in two"
                " calls"
            )
