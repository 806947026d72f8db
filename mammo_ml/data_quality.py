"""Expectation suites on tables, and the gate: the only importer of Great Expectations (its import takes 10 s).

Great Expectations passes empty tables, all-null columns, empty suites, `mostly` that hides rows, and row conditions
that match nothing. The gate here fails on all of them: a check that looked at nothing has not passed.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_ml.data_docs import PageLinks, index_page, offline_page, write_pages
from mammo_ml.datasets.catalog import (
    BOX_COLUMNS,
    BREAST_COLUMNS,
    LABELS,
    SEVERITIES,
    UNKNOWN_SEVERITY,
    label_of,
)
from mammo_ml.errors import BadInputError

KEY_COLUMNS = ("row", "film_id", "patch_id", "cut_id", "lesion_id", "patient_id")
"""Columns that name a row in a message; the first two that a table has are used. `row`: where it stands in a file."""
MAX_ROWS_NAMED = 10
_RUN_NAME = "validation"
_RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""Fixed, so that the pages of two runs on the same tables are equal."""

Suite = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """One expectation that does not hold: the suite, what it says in plain words, what was found, and the rows."""

    suite: str
    expectation: str
    found: str
    rows: tuple[str, ...] = ()
    critical: bool = True

    def __str__(self) -> str:
        shown = "; ".join(self.rows[:MAX_ROWS_NAMED])
        more = f" and {len(self.rows) - MAX_ROWS_NAMED} more" if len(self.rows) > MAX_ROWS_NAMED else ""
        rows = f" in rows {shown}{more}" if self.rows else ""
        return f"{self.suite}: {self.expectation}: {self.found}{rows}"


@dataclass(frozen=True)
class ValidationReport:
    """What was looked at and what failed.

    Attributes:
        failures: every expectation that does not hold, warnings included, in the order of the suites.
        evaluated: expectations evaluated, by suite.
        rows: rows, by table.
        index: front page of the Data Docs.
    """

    failures: tuple[Failure, ...]
    evaluated: Mapping[str, int]
    rows: Mapping[str, int]
    index: Path

    @property
    def passed(self) -> bool:
        """Whether no critical expectation failed."""
        return not any(failure.critical for failure in self.failures)

    def to_metrics(self) -> dict[str, float]:
        """Numbers only: expectations evaluated, failed, warnings, and the rows of each table."""
        n_critical = sum(failure.critical for failure in self.failures)
        return {
            "expectations_evaluated": float(sum(self.evaluated.values())),
            "expectations_failed": float(n_critical),
            "expectations_warned": float(len(self.failures) - n_critical),
            **{f"rows_{table}": float(n_rows) for table, n_rows in self.rows.items()},
        }

    def raise_if_failed(self) -> None:
        """Raise BadInputError naming every table, expectation and row that failed, and where the Data Docs are."""
        problems = [str(failure) for failure in self.failures if failure.critical]
        if problems:
            raise BadInputError(
                "data quality",
                problems,
                f"Mend the rows at their source and run again, or correct the expectation. Data Docs: {self.index}",
            )


def validate(
    tables: Mapping[str, pd.DataFrame], suites_dir: Path, docs_dir: Path, dataset: str | None = None
) -> ValidationReport:
    """Check each table against its suite, and against what is known of one data set; write Data Docs.

    Args:
        tables: table name to table. `films` and `lesions` together are also joined, see `joined_tables`.
        suites_dir: holds <table>.json, and facts/<dataset>.json whose "suites" map a table to a suite of its counts.
        docs_dir: where index.html and the pages go; HTML pages of an earlier run there are replaced.
        dataset: whose facts to check; a data set without a facts file has none.

    Raises:
        BadInputError: naming every suite file that is missing or broken. What does not hold is in the report.
    """
    every_table = {**tables, **joined_tables(tables)}
    suites = _read_suites(every_table, suites_dir, dataset)
    failures: list[Failure] = []
    links: list[PageLinks] = []
    evaluated: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        results, pages = _run_suites(suites, every_table, Path(folder))
    for name, (table, suite) in suites.items():
        found, evaluated[name] = _judge(name, suite, every_table[table], results.get(name, {}))
        failures += found
        shown = {kind: page for page in pages for kind in ("expectations", "validations") if _is_page(page, kind, name)}
        n_failed = sum(failure.critical for failure in found)
        if {"validations", "expectations"} <= set(shown):
            counts = (len(every_table[table]), evaluated[name], n_failed)
            links.append(PageLinks(name, *counts, shown["validations"], shown["expectations"]))
    problems, warnings = ([str(f) for f in failures if f.critical is critical] for critical in (True, False))
    pages = {page: offline_page(text) for page, text in pages.items()}
    write_pages({**pages, "index.html": index_page(links, problems, warnings)}, docs_dir)
    rows = {table: len(frame) for table, frame in tables.items()}
    return ValidationReport(tuple(failures), evaluated, rows, docs_dir / "index.html")


def joined_tables(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables for what no single table can show: `lesions_on_films` and `films_and_lesions`; none without both.

    `lesions_on_films` is the lesions with the size and the breast's box of their films (null for a film that is not in
    the catalog); `films_and_lesions` the films with `label_of_lesions`, the label their lesions ask for.
    """
    if not {"films", "lesions"} <= set(tables):
        return {}
    films, lesions = tables["films"], tables["lesions"]
    needed = {"film_id", "label", "width_px", "height_px", *BREAST_COLUMNS} - set(films.columns)
    needed |= {"film_id", "lesion_id", "severity", *BOX_COLUMNS} - set(lesions.columns)
    if needed or films["film_id"].duplicated().any():
        return {}  # the suites of the two tables themselves name what is missing or repeated
    on_films = lesions.merge(
        films[["film_id", "width_px", "height_px", *BREAST_COLUMNS]], on="film_id", how="left", validate="many_to_one"
    ).assign(film_x1=0.0, film_y1=0.0)
    asked_for = lesions.groupby("film_id")["severity"].agg(list)
    labels = [
        _label_asked_for(severities, str(label))
        for severities, label in zip(films["film_id"].map(asked_for), films["label"], strict=True)
    ]
    return {
        "lesions_on_films": on_films,
        "films_and_lesions": films[["film_id", "label"]].assign(
            label_of_lesions=pd.Series(labels, index=films.index, dtype=films["label"].dtype)
        ),
    }


def _label_asked_for(severities: object, label: str) -> str:
    """Label that the severities of a film's lesions ask for; one that is not told leaves the film its own label.

    A film with such a lesion is not normal, and no less severe than its other lesions.
    """
    found = severities if isinstance(severities, list) else []
    least = [severity for severity in found if severity in SEVERITIES]
    if UNKNOWN_SEVERITY not in found:
        return label_of(least)
    return label_of([*least, label if label in LABELS[1:] else SEVERITIES[0]])


def _read_suites(
    tables: Mapping[str, pd.DataFrame], suites_dir: Path, dataset: str | None
) -> dict[str, tuple[str, Suite]]:
    """Suite name to table name and suite, general suites first, then the data set's facts."""
    suites: dict[str, tuple[str, Suite]] = {}
    problems = []
    for table in tables:
        path = suites_dir / f"{table}.json"
        try:
            suites[table] = (table, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            problems.append(f"{path} is missing: table '{table}' has no suite")
        except json.JSONDecodeError as error:
            problems.append(f"{path} is not JSON: {error}")
    for table, suite in read_facts(suites_dir, dataset).get("suites", {}).items():
        if table in tables:
            suites[f"{table}_in_{dataset}"] = (table, suite)
    for name, (_, suite) in suites.items():
        if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
            problems.append(f"suite '{name}' has no list of expectations")
        elif suite.get("name") != name:
            problems.append(f"suite '{name}' calls itself '{suite.get('name')}'")
    if problems:
        raise BadInputError("expectation suites", problems, "Restore the file from git, or write the suite.")
    return suites


def read_facts(suites_dir: Path, dataset: str | None) -> dict[str, Any]:
    """What is known of one data set, from facts/<dataset>.json; nothing when there is no such file.

    Raises:
        BadInputError: when the file is not JSON.
    """
    path = suites_dir / "facts" / f"{dataset}.json"
    if dataset is None or not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInputError(str(path), [f"not JSON: {error}"]) from None
    return dict(facts)


# --- the gate -------------------------------------------------------------------------------------------------------


def _judge(name: str, suite: Suite, table: pd.DataFrame, results: Mapping[str, Any]) -> tuple[list[Failure], int]:
    """Failures of one suite, and how many of its expectations were evaluated; results: expectation id to GX result."""
    failures = []
    if table.empty:
        failures.append(Failure(name, "the table has rows", "it has 0 rows"))
    if not suite["expectations"]:
        failures.append(Failure(name, "the suite has expectations", "it has none, so nothing was checked"))
    n_evaluated = 0
    for expectation in suite["expectations"]:
        result = results.get(expectation["id"])
        if result is None:
            found, critical = f"'{expectation['type']}' was not evaluated: is the name right?", True
            failures.append(Failure(name, _words(expectation), found, (), critical))
            continue
        error = _error_of(result.exception_info)
        n_evaluated += not error
        found = error or _vacuous(expectation, result, table) or _violated(expectation, result)
        if found:
            # an expectation that could not be evaluated is never a mere warning
            critical = bool(error) or expectation.get("severity", "critical") != "warning"
            failures.append(Failure(name, _words(expectation), found, _rows(result, table), critical))
    return failures, n_evaluated


def _words(expectation: Mapping[str, Any]) -> str:
    return str(expectation.get("description") or f"{expectation['type']} {expectation['kwargs']}")


def _error_of(info: Mapping[str, Any]) -> str:
    """What went wrong while evaluating, '' when nothing did; GX nests the text by metric or not at all."""
    flat = [info] if "raised_exception" in info else list(info.values())
    messages = [str(entry["exception_message"]) for entry in flat if entry.get("raised_exception")]
    return f"could not be evaluated: {messages[0]}" if messages else ""


def _vacuous(expectation: Mapping[str, Any], result: Any, table: pd.DataFrame) -> str:
    """Why the result says nothing: no row matched the condition, or every value looked at is null; '' otherwise."""
    condition = expectation["kwargs"].get("row_condition")
    if condition is not None and not _matching_rows(condition, table):
        return f"no row matches the condition {condition}, so nothing was checked"
    found = result.result
    n_rows, n_missing = found.get("element_count"), found.get("missing_count") or 0
    is_about_nulls = expectation["type"] == "expect_column_values_to_be_null"
    if n_rows is not None and not is_about_nulls and n_rows - n_missing <= 0:
        return f"all {n_rows} values are null, so nothing was checked"
    return ""


def _matching_rows(condition: Any, table: pd.DataFrame) -> int:
    """Rows matching a row condition, which must be one comparison with ==, != or IN."""
    compare: dict[str, Callable[[Any, Any], Any]] = {
        "==": lambda column, value: column == value,
        "!=": lambda column, value: column != value,
        "IN": lambda column, values: column.isin(values),
    }
    operator = condition.get("operator") if isinstance(condition, dict) else None
    if operator not in compare or condition["column"]["name"] not in table:
        return 0
    return int(compare[operator](table[condition["column"]["name"]], condition["parameter"]).sum())


def _violated(expectation: Mapping[str, Any], result: Any) -> str:
    """What contradicts the expectation, '' when nothing does. Rows that `mostly` would let pass count."""
    found = result.result
    n_unexpected = int(found.get("unexpected_count") or 0)
    if n_unexpected:
        hidden = ", which `mostly` would have let pass" if result.success else ""
        values = sorted({_plain(value) for value in found.get("partial_unexpected_list") or []})[:5]
        examples = f" (found {', '.join(values)})" if values else ""
        return f"{n_unexpected} of {found.get('element_count', '?')} rows contradict it{examples}{hidden}"
    if result.success:
        return ""
    return f"found {found.get('observed_value', dict(found))}"


def _plain(value: Any) -> str:
    """A value, pair or row of values as a person writes them, without the names of numpy types."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, tuple | list):
        return " and ".join(_plain(entry) for entry in value)
    return str(value)


def _rows(result: Any, table: pd.DataFrame) -> tuple[str, ...]:
    keys = [column for column in KEY_COLUMNS if column in table.columns][:2]
    rows = result.result.get("unexpected_index_list") or []
    return tuple(" ".join(str(row[key]) for key in keys) if keys else str(row) for row in rows)


# --- Great Expectations ---------------------------------------------------------------------------------------------


def _run_suites(
    suites: Mapping[str, tuple[str, Suite]], tables: Mapping[str, pd.DataFrame], folder: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Evaluate every suite on copies in `folder`; results by suite and expectation id, pages by relative path."""
    import great_expectations as gx

    _register_row_rules()
    store = folder / "suites"
    store.mkdir()
    for name, (_, suite) in suites.items():
        (store / f"{name}.json").write_text(json.dumps(_known_only(suite)), encoding="utf-8")
    context = _context(store, folder / "pages")
    source = context.data_sources.add_pandas("tables")
    results: dict[str, dict[str, Any]] = {}
    for name, (table, _) in suites.items():
        frame = tables[table]
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("whole")
        definition = gx.ValidationDefinition(name=name, data=batch, suite=_load_suite(context, name))
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[context.validation_definitions.add(definition)],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": [column for column in KEY_COLUMNS if column in frame.columns],
            },
        )
        run = context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": frame}, run_id=gx.RunIdentifier(run_name=_RUN_NAME, run_time=_RUN_TIME)
        )
        (result,) = run.run_results.values()
        results[name] = {single.expectation_config.id: single for single in result.results}
    context.build_data_docs()
    docs = folder / "pages"
    pages = {path.relative_to(docs).as_posix(): path.read_text(encoding="utf-8") for path in docs.rglob("*.html")}
    return results, pages


def _load_suite(context: Any, name: str) -> Any:
    try:
        return context.suites.get(name)
    except ValueError as error:  # of pydantic, which names the argument
        raise BadInputError(f"expectation suite '{name}'", [str(error)], "Correct the arguments in the file.") from None


def _known_only(suite: Suite) -> Suite:
    """Suite without expectations that Great Expectations does not know; the gate reports them as not evaluated."""
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    known = set(list_registered_expectation_implementations())
    return {**suite, "expectations": [entry for entry in suite["expectations"] if entry["type"] in known]}


def _is_page(page: str, kind: str, name: str) -> bool:
    names = {"expectations": f"expectations/{name}.html", "validations": f"/tables-{name}.html"}
    return page.startswith(kind) and page.endswith(names[kind])


def _context(suites_dir: Path, docs_dir: Path) -> Any:
    """Context in memory whose suites are read from a folder: their ids stay as they are in the files."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, ProgressBarsConfig

    memory = {"store_backend": {"class_name": "InMemoryStoreBackend"}}
    folder = {"class_name": "TupleFilesystemStoreBackend", "suppress_store_backend_id": True}
    config = DataContextConfig(
        config_version=4.0,
        expectations_store_name="expectations_store",
        validation_results_store_name="validation_results_store",
        checkpoint_store_name="checkpoint_store",
        stores={
            "expectations_store": {
                "class_name": "ExpectationsStore",
                "store_backend": {**folder, "base_directory": str(suites_dir.resolve())},
            },
            "validation_results_store": {"class_name": "ValidationResultsStore", **memory},
            "validation_definition_store": {"class_name": "ValidationDefinitionStore", **memory},
            "checkpoint_store": {"class_name": "CheckpointStore", **memory},
        },
        data_docs_sites={
            "site": {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {**folder, "base_directory": str(docs_dir.resolve())},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            }
        },
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        analytics_enabled=False,
    )
    return gx.get_context(project_config=config, mode="ephemeral")


# --- rules over several columns that Great Expectations has none for ------------------------------------------------


def _flag_tells_known(columns: pd.DataFrame, _: float) -> "pd.Series[bool]":
    """First column is true exactly where all the others are known, and false exactly where all are null."""
    flag, others = columns.iloc[:, 0].astype(bool), columns.iloc[:, 1:]
    return (flag & others.notna().all(axis=1)) | (~flag & others.isna().all(axis=1))


def _role_tells_fold(columns: pd.DataFrame, _: float) -> "pd.Series[bool]":
    """First column is the fold k of the woman; the others, role_0 to role_4, say `test` for role_k and no other."""
    roles = columns.iloc[:, 1:]
    is_test = pd.DataFrame({k: roles.iloc[:, k] == "test" for k in range(roles.shape[1])})
    in_fold = pd.DataFrame({k: columns.iloc[:, 0] == k for k in range(roles.shape[1])})
    return (is_test == in_fold).all(axis=1)


def _box_inside_box(columns: pd.DataFrame, tolerance_px: float) -> "pd.Series[bool]":
    """First four columns, a box, lie in the next four, another box, give or take `tolerance_px`; no box, no fault."""
    x1, y1, x2, y2, outer_x1, outer_y1, outer_x2, outer_y2 = (columns.iloc[:, n] for n in range(8))
    inside = (x1 >= outer_x1 - tolerance_px) & (x2 <= outer_x2 + tolerance_px)
    inside &= (y1 >= outer_y1 - tolerance_px) & (y2 <= outer_y2 + tolerance_px)
    return inside | columns.iloc[:, :4].isna().all(axis=1)


def _lesion_exactly_where_kind(columns: pd.DataFrame, _: float) -> "pd.Series[bool]":
    """Columns kind, label, lesion_id: a lesion patch names its lesion and is not normal, a normal one has none."""
    is_lesion = columns.iloc[:, 0] == "lesion"
    return (is_lesion == columns.iloc[:, 2].notna()) & (is_lesion == (columns.iloc[:, 1] != "normal"))


def _circle_round_box(columns: pd.DataFrame, tolerance_px: float) -> "pd.Series[bool]":
    """First four columns, a box; then its centre's x and y and half its longer side, give or take `tolerance_px`."""
    x1, y1, x2, y2, x, y, radius = (columns.iloc[:, n] for n in range(7))
    longer = (x2 - x1).where(x2 - x1 >= y2 - y1, y2 - y1)
    off = pd.concat([(x1 + x2) / 2 - x, (y1 + y2) / 2 - y, longer / 2 - radius], axis=1).abs()
    return (off <= tolerance_px).all(axis=1) | columns.isna().any(axis=1)


def _share_if_known(columns: pd.DataFrame, _: float) -> "pd.Series[bool]":
    """The last column is from 0 to 1, or null."""
    return columns.iloc[:, -1].between(0, 1) | columns.iloc[:, -1].isna()


RULES: dict[str, Callable[[pd.DataFrame, float], "pd.Series[bool]"]] = {
    "flag_tells_known": _flag_tells_known,
    "role_tells_fold": _role_tells_fold,
    "box_inside_box": _box_inside_box,
    "lesion_exactly_where_kind": _lesion_exactly_where_kind,
    "circle_round_box": _circle_round_box,
    "share_if_known": _share_if_known,
}


@cache
def _register_row_rules() -> None:
    """Register `expect_rows_to_follow_rule` (column_list, rule, tolerance_px); GX learns it when its class is made."""
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation import MulticolumnMapExpectation
    from great_expectations.expectations.metrics.map_metric_provider import MulticolumnMapMetricProvider
    from great_expectations.expectations.metrics.map_metric_provider.multicolumn_condition_partial import (
        multicolumn_condition_partial,
    )

    class RowsFollowRule(MulticolumnMapMetricProvider):  # type: ignore[misc]
        condition_metric_name = "multicolumn_values.follow_rule"
        condition_domain_keys = (
            "batch_id",
            "table",
            "column_list",
            "row_condition",
            "condition_parser",
            "ignore_row_if",
        )
        condition_value_keys = ("rule", "tolerance_px")

        @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
        def _pandas(cls, column_list: Any, **kwargs: Any) -> Any:  # noqa: N805
            return RULES[kwargs["rule"]](column_list, kwargs["tolerance_px"])

    class ExpectRowsToFollowRule(MulticolumnMapExpectation):  # type: ignore[misc]
        rule: str
        tolerance_px: float = 0.0
        map_metric = "multicolumn_values.follow_rule"
        success_keys = ("rule", "tolerance_px", "mostly")
        args_keys = ("column_list", "rule", "tolerance_px")
