"""Which format a file is of, by its columns and by what the user has named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.formats.benchmarks import AIPERF, AIPERF_RECORDS, GUIDELLM, VLLM
from llmserve_sim.workload.formats.published import AZURE, BAILIAN, BURSTGPT, MOONCAKE, SERVEGEN
from llmserve_sim.workload.formats.simulators import LLMSERVINGSIM, PLAIN, RESULTS, VIDUR
from llmserve_sim.workload.formats.style import CLOCK, UNITS, Format

__all__ = ["FORMATS", "Naming", "detect", "known"]

FORMATS: Final = {
    style.name: style
    for style in (
        PLAIN,
        AZURE,
        BURSTGPT,
        BAILIAN,
        AIPERF,
        MOONCAKE,
        GUIDELLM,
        SERVEGEN,
        LLMSERVINGSIM,
        VIDUR,
        VLLM,
        AIPERF_RECORDS,
        RESULTS,
    )
}
"""By name; the first whose columns a file holds is the file's."""
_UNITS: Final = (*UNITS, CLOCK)
_OPTIONS: Final = ("time_column", "prompt_column", "output_column")


@dataclass(frozen=True)
class Naming:
    """What the user says of a file; None: what the file's format says."""

    format: str = "auto"
    time_column: str | None = None
    prompt_column: str | None = None
    output_column: str | None = None
    time_unit: str | None = None
    """A key of `UNITS`, or "date"."""

    def __post_init__(self) -> None:
        """Raise `InvalidInputError` for a format or a unit that there is not, and for a name that is no text."""
        names = ("auto", *FORMATS)
        if self.format not in names:
            raise InvalidInputError("format", f"must be one of {', '.join(names)}", got=self.format)
        if self.time_unit not in (None, *_UNITS):
            raise InvalidInputError("time_unit", f"must be one of {', '.join(_UNITS)}", got=self.time_unit)
        given: tuple[object, ...] = self.columns
        for option, name in zip(_OPTIONS, given, strict=True):
            if name is not None and not (isinstance(name, str) and name):
                raise InvalidInputError(option, "must be the name of a column", got=name)

    @property
    def columns(self) -> tuple[str | None, str | None, str | None]:
        """The named columns: time, prompt, output."""
        return self.time_column, self.prompt_column, self.output_column


def known() -> str:
    """Return the formats with their columns, for an error."""
    return "; ".join(f"{style.name}: {','.join(style.columns)}" for style in FORMATS.values())


def detect(where: str, columns: Sequence[str], naming: Naming, shown: object = None) -> Format:
    """Return the format of a file with these columns, with what the user has named in place of its own.

    Args:
        where: file and line, for errors.
        columns: the file's columns or keys, in any case.
        naming: what the user says.
        shown: what an error shows of the file.

    Raises:
        InvalidInputError: no format fits, none is told apart from others, or a named column is not there.
    """
    present = {column.lower() for column in columns}
    if any(naming.columns):
        return _by_columns(where, columns, naming)
    fits = [style for style in FORMATS.values() if any(_lower(mark) <= present for mark in style.marks)]
    if BAILIAN in fits and MOONCAKE in fits:
        fits.remove(MOONCAKE)  # the same keys in another unit: chat_id and turn decide
    if naming.format != "auto":
        wanted = FORMATS[naming.format]
        alike = not wanted.marks and _lower(wanted.columns) <= present and not (BAILIAN in fits and wanted.unit != "s")
        bare = wanted in {MOONCAKE, BAILIAN} and not fits and _lower(wanted.columns) <= present
        if not (wanted in fits or alike or bare):
            like = f"looks like {fits[0].name}" if fits else "does not look like it"
            raise InvalidInputError(where, f"must be of format {wanted.name}, {like} ({known()})", got=shown)
        return _in_unit(replace(wanted, whole=False), naming)
    if fits:
        return _in_unit(fits[0], naming)
    for style in (GUIDELLM, SERVEGEN):
        if _lower(style.columns) <= present:
            if naming.time_unit is None:
                raise InvalidInputError(f"{where}:{style.time}", f"has no unit: add time_unit, {_advice(style)}")
            # The unit tells which of the formats with these keys it is, or that it is another.
            candidates = (MOONCAKE, style) if style is GUIDELLM else (style,)
            name = next((one.name for one in candidates if one.unit == naming.time_unit), "columns")
            return replace(_in_unit(style, naming), name=name)
    raise InvalidInputError(
        where,
        f"must be the header of a known format ({known()}), or name time_column, prompt_column, output_column and "
        "time_unit",
        got=shown,
    )


def _by_columns(where: str, columns: Sequence[str], naming: Naming) -> Format:
    """Return the format of a file whose columns the user names; a format gives the columns that are not named."""
    rest = replace(naming, time_column=None, prompt_column=None, output_column=None)
    base: Format | None = None
    if not all(naming.columns):
        base = detect(where, columns, rest)
    elif naming.format != "auto":
        base = FORMATS[naming.format]
    spelling = {column.lower(): column for column in columns}
    chosen = [name or base.columns[at] if base else str(name) for at, name in enumerate(naming.columns)]
    for option, name, given in zip(_OPTIONS, chosen, naming.columns, strict=True):
        if name.lower() not in spelling:
            raise InvalidInputError(option, f"must be a column of {where}: {', '.join(columns)}", got=given)
    chosen = [spelling[name.lower()] for name in chosen]
    unit = naming.time_unit or (base.unit if base is not None and naming.time_column is None else None)
    if unit is None:
        raise InvalidInputError("time_unit", f"is needed with time_column: one of {', '.join(_UNITS)}")
    name = base.name if base else "columns"
    style = base or PLAIN
    return replace(
        style, name=name, time=chosen[0], prompt=chosen[1], output=chosen[2], unit=unit, whole=False, unfold=None
    )


def _in_unit(style: Format, naming: Naming) -> Format:
    return style if naming.time_unit is None else replace(style, unit=naming.time_unit, whole=False)


def _advice(style: Format) -> str:
    if style is GUIDELLM:
        return "ms as in Mooncake, or s as in Bailian and GuideLLM"
    return "s as in ServeGen, or what your log counts in"


def _lower(names: Sequence[str]) -> set[str]:
    return {name.lower() for name in names}
