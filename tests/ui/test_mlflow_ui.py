"""MLflow's own pages in a real Chromium, over two registered runs: what a person sees who chooses a model.

`SCREENSHOTS_FOLDER=FOLDER` keeps the pictures of what each test saw; pytest's tmp_path holds them otherwise.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from mgray.config import TrainJobConfig
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset
from tests.heads import BIN, clean_environment, free_ports
from tests.stores import give_store

WAIT_S = 60
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync --window-size=1920,1400"
)
GRANULARITIES = ((1, 4), (1, 4, 16))


class Site(NamedTuple):
    """A server over two runs: the first's model is champion, the second's is challenger."""

    url: str
    store: str
    experiment_id: str
    results: list[dict[str, Any]]  # of run_training, oldest first

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store)


@pytest.fixture(scope="module")
def results(ray_local: None, mlflow_apart: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two trainings that differ in their granularities alone; in this process, for DDP is not what is looked at."""
    from pipelines.train import job as train

    home = tmp_path_factory.mktemp("home")
    give_store(home)
    dataset = write_dataset(home / "dataset", make_log(120, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "fit", lambda given, _, __, runs: train.fit_here(given, runs, lambda _: None))
        return [
            train.run_training(
                TrainJobConfig.model_validate(
                    {
                        "home": str(home),
                        "data": {"dataset": str(dataset.folder)},
                        "model": {"width": 16, "granularities": levels, "heads": 2},
                        "train": {"epochs": 4, "validate_every_epochs": 2, "global_batch_events": 256},
                        "scale": {"num_workers": 1},
                        "tracking": {"system_metrics": False},
                    }
                )
            )
            for levels in GRANULARITIES
        ]


@pytest.fixture(scope="module")
def site(results: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    (port,) = free_ports(1)
    store, url = results[0]["tracking_uri"], f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(BIN / "mlflow"), "server", "--backend-store-uri", store, "--port", str(port), "--workers", "1"],
            env=clean_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(requests.RequestException):
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlflow server did not come up:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
        experiment_id = MlflowClient(store).get_run(results[0]["run_id"]).info.experiment_id
        yield Site(url, store, experiment_id, results)
    finally:
        process.terminate()
        process.wait(30)


class Browser:
    """The few things that a person does: open, look, click."""

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def open(self, site: Site, page: str) -> None:
        self.driver.get("about:blank")  # MLflow's pages differ after the # alone, which loads nothing anew
        self.driver.get(f"{site.url}/#/{page}")

    def wait(self, seen: Callable[[], Any], what: str) -> Any:
        """What `seen` gives once it is true; the page may draw itself anew meanwhile."""

        def quiet(_: object) -> Any:
            with suppress(Exception):
                return seen()
            return False

        try:
            return WebDriverWait(self.driver, WAIT_S, poll_frequency=0.2).until(quiet)
        except Exception:
            self.keep("failed")
            pytest.fail(f"{what} did not show; the page says:\n{self.text()[:3000]}\npicture in {self.pictures}")

    def find(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def shows(self, *texts: str) -> None:
        for text in texts:
            self.wait(lambda text=text: text in self.text(), repr(text))

    def click(self, css: str, text: str = "") -> None:
        """The first visible element of that selector whose text begins so."""

        def clicked() -> bool:
            element = next(e for e in self.find(css) if e.is_displayed() and e.text.startswith(text))
            element.click()
            return True

        self.wait(clicked, f"{css} {text}")

    def close_assistant(self) -> None:
        """It takes a fourth of the width; a person closes it once."""
        for button in self.find("[data-component-id='mlflow.assistant.chat_panel.close']"):
            button.click()

    def keep(self, name: str) -> None:
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.fail("these tests need Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    with webdriver.Chrome(options=options, service=Service(chromedriver)) as started:
        yield started


@pytest.fixture
def browser(driver: webdriver.Chrome, tmp_path: Path) -> Iterator[Browser]:
    pictures = Path(os.environ.get("SCREENSHOTS_FOLDER") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    driver.switch_to.default_content()
    return Browser(driver, pictures)


def rows(browser: Browser) -> dict[str, dict[str, str]]:
    """The runs table as it stands on the screen: run id -> column -> what its cell says."""
    found: dict[str, dict[str, str]] = {}
    for cell in browser.find("[role=row][row-id] [role=gridcell]"):
        row = cell.find_element(By.XPATH, "./ancestor::*[@role='row'][@row-id]").get_attribute("row-id")
        found.setdefault(row, {})[cell.get_attribute("col-id")] = cell.text
    return found


def add_column(browser: Browser, name: str) -> None:
    search = browser.wait(lambda: browser.find("input[placeholder='Search columns']")[0], "the columns' search")
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(name)
    browser.click("[class*='tree-title']", name)


def test_the_runs_table_shows_the_metrics(site: Site, browser: Browser) -> None:
    browser.open(site, f"experiments/{site.experiment_id}/runs")
    browser.shows("2 matching runs", "g1-4-w16-s0", "g1-4-16-w16-s0", "mgray-interest")
    browser.close_assistant()
    browser.click("button", "Columns")
    columns = ["test/hr_at_10", "test/ndcg_at_10", "model.granularities"]
    for name in columns:
        add_column(browser, name)
    browser.find("body")[0].send_keys(Keys.ESCAPE)
    ids = ["metrics.`test/hr_at_10`", "metrics.`test/ndcg_at_10`", "params.`model.granularities`"]
    browser.wait(lambda: all(set(ids) <= set(row) for row in rows(browser).values()), "the chosen columns")
    browser.keep("runs")
    table = rows(browser)
    for result, levels in zip(site.results, GRANULARITIES, strict=True):
        hit_rate, ndcg, granularities = (table[result["run_id"]][column] for column in ids)
        assert float(hit_rate) == pytest.approx(result["metrics"]["hr@10"], abs=1e-9)
        assert float(ndcg) == pytest.approx(result["metrics"]["ndcg@10"], abs=1e-9)
        assert tuple(int(number) for number in re.findall(r"\d+", granularities)) == levels


def test_two_runs_compare(site: Site, browser: Browser) -> None:
    browser.open(site, f"experiments/{site.experiment_id}/runs")
    browser.shows("2 matching runs")
    browser.close_assistant()
    for result in site.results:
        browser.click(f"[role=row][row-id='{result['run_id']}'] .ag-checkbox-input-wrapper")
    browser.click("button", "Compare")
    browser.shows("Comparing 2 Runs", "g1-4-w16-s0", "g1-4-16-w16-s0", *(r["run_id"] for r in site.results))
    switches = browser.wait(lambda: s if len(s := browser.find("button[role=switch]")) == 3 else None, "three switches")
    for switch in switches:  # of parameters, metrics, tags: "Show diff only"
        if switch.get_attribute("aria-checked") != "true":
            browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", switch)
            switch.click()
    browser.wait(lambda: "scale.num_workers" not in browser.text(), "the difference alone")
    browser.shows("model.granularities", "test/ndcg_at_10")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", switches[1])
    browser.keep("compare")
    page = browser.text()
    # The granularities are the one parameter that differs, and they stand among the parameters, not in nested ones.
    parameters = page[page.index("\nParameters\n") : page.index("\nMetrics\n")]
    assert re.findall(r"^[a-z_]+\.[a-z_.]+", parameters, re.M) == ["model.granularities"]
    for result in site.results:
        assert str(round(result["metrics"]["ndcg@10"], 3)) in page


def test_the_report_opens_from_the_artifacts(site: Site, browser: Browser) -> None:
    result = site.results[1]
    browser.open(site, f"experiments/{site.experiment_id}/runs/{result['run_id']}/artifacts")
    browser.shows("manifest.json", "report.html")
    browser.click("li, [role=treeitem], span", "report.html")
    frame = browser.wait(lambda: browser.find("iframe")[0], "the report's frame")
    browser.driver.switch_to.frame(frame)
    browser.shows("mgray: 1, 4, 16", *(f"{result['metrics'][name]:.4f}" for name in ("hr@10", "ndcg@10")), "popularity")
    browser.keep("report_in_mlflow")
    plots = [plot.size for plot in browser.find("svg")]
    assert len(plots) >= 3
    assert all(size["width"] > 200 and size["height"] > 100 for size in plots), "a plot without a size is not seen"


def aliases(browser: Browser) -> dict[str, set[str]]:
    """Version -> its aliases, as the registered model's page has them."""
    return {
        re.search(r"^Version (\d+)$", row.text, re.M)[1]: set(re.findall(r"@ ?(\w+)", row.text))
        for row in browser.find("[role=row]")
        if re.search(r"^Version \d+$", row.text, re.M)
    }


def test_the_registered_model_shows_its_aliases(site: Site, browser: Browser) -> None:
    browser.open(site, "models/mgray-interest")
    browser.wait(lambda: aliases(browser) == {"1": {"champion"}, "2": {"challenger"}}, "the aliases of both versions")
    browser.keep("model")


def test_a_version_tells_what_it_is(site: Site, browser: Browser) -> None:
    browser.open(site, "models/mgray-interest/versions/2")
    browser.shows("Trained on", "Quality", "Intended use", "Limits", "g1-4-16-w16-s0")
    browser.shows(f"{site.results[1]['metrics']['ndcg@10']:.4f}")
    browser.keep("version")
