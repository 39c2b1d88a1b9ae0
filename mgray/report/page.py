"""HTML pages of the reports: one look, every text escaped, nothing requested or executed."""

from collections.abc import Callable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from mgray.report.report_data import DASH


def render_page(template: str, filters: Mapping[str, Callable[..., str]], **values: object) -> str:
    """Render a file of templates/ with the values: one page with everything inside. Write it as UTF-8."""
    environment = Environment(
        loader=PackageLoader("mgray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(dash=DASH, **values)
