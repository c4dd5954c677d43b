"""What a person sees who follows the links of ``plasticine ui`` in a real browser."""

from __future__ import annotations

import re

from tests.ui.conftest import SHOTS

SNP, VANILLA = "snp · ppo · classic/cartpole (2 seeds)", "vanilla · ppo · classic/cartpole (2 seeds)"


def runs_matching(page, number: int) -> None:
    page.get_by_text(re.compile(rf"^\s*{number}\s*matching run")).first.wait_for()


def test_the_link_shows_methods_not_seeds(ui, page):
    page.goto(ui.links["Methods compared"])
    for name in (SNP, VANILLA):
        page.get_by_role("link", name=name).first.wait_for()
    runs_matching(page, 2)
    assert page.get_by_role("link", name=re.compile(r"\bs\d ·")).count() == 0
    assert page.get_by_text("Methods compared").count()  # by name in MLflow's list of views
    sort = page.get_by_role("button", name=re.compile("Sort:"))
    assert "iqm/summary/final_return" in sort.inner_text()
    page.get_by_text("iqm/train/episodic_return vs ci_low/train/episodic_return").first.wait_for()
    charts = page.locator(".js-plotly-plot")
    lines = ".scatterlayer .trace path.js-line"
    charts.nth(0).locator(lines).nth(1).wait_for(state="attached")
    # The IQM and both ends of its interval, of both methods.
    charts.nth(2).locator(lines).nth(5).wait_for(state="attached")
    page.locator(".js-plotly-plot .barlayer .point").nth(1).wait_for(state="attached")
    page.wait_for_timeout(1000)  # for the picture only
    page.screenshot(path=SHOTS / "methods.png")


def test_the_second_link_groups_seeds_by_method(ui, page):
    page.goto(ui.links["Seeds, grouped by method"])
    for name in ("snp", "vanilla"):
        page.get_by_text(f"Group: {name}").first.wait_for()
    runs_matching(page, 4)
    page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace path.js-line").nth(1).wait_for(
        state="attached"
    )
    page.wait_for_timeout(1000)
    page.screenshot(path=SHOTS / "seeds.png")


def test_runs_are_nested_and_can_be_grouped_by_hand(ui, page):
    experiment = re.search(r"/experiments/\d+/runs", ui.links["Methods compared"]).group()
    page.goto(f"{ui.address}/#{experiment}?compareRunsMode=TABLE")
    page.get_by_role("link", name="study grid").first.wait_for()
    runs_matching(page, 7)
    seeds = [f"{method} s{seed} · ppo · classic/cartpole" for method in ("snp", "vanilla") for seed in (0, 1)]
    assert page.get_by_role("link", name=seeds[0]).count() == 0  # folded up below the study
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="study grid"))
    row.get_by_role("button").first.click()
    for name in (*seeds, SNP, VANILLA):
        page.get_by_role("link", name=name).first.wait_for()
    page.screenshot(path=SHOTS / "nested.png")
    page.goto(f"{ui.address}/#{experiment}?compareRunsMode=TABLE&searchFilter=tags.kind%20%3D%20'seed'")
    runs_matching(page, 5)  # the seeds, below their study
    page.get_by_role("button", name="Group by").click()
    page.get_by_placeholder("Search").last.fill("method")
    page.get_by_role("menuitemcheckbox", name="method").first.click()
    page.keyboard.press("Escape")
    page.get_by_text("Group: snp").first.wait_for()
    page.get_by_text("Group: vanilla").first.wait_for()
    page.screenshot(path=SHOTS / "grouped.png")


def test_the_study_shows_its_table_figures_and_report(ui, page):
    experiment = re.search(r"/experiments/\d+/runs", ui.links["Methods compared"]).group()
    page.goto(f"{ui.address}/#{experiment}?compareRunsMode=TABLE&searchFilter=tags.kind%20%3D%20'study'")
    page.get_by_role("link", name="study grid").first.click()
    page.get_by_text("final return (IQM)").first.wait_for()
    page.screenshot(path=SHOTS / "study.png")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("figures", exact=True).first.click()
    page.get_by_text(re.compile(r"^curve\..*\.ppo\.png$")).first.click()
    picture = page.get_by_alt_text("figures/curve.continual.classic_cartpole.ppo.png")
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400
    page.screenshot(path=SHOTS / "figure.png")
    page.get_by_text("report.html", exact=True).first.click()
    page.frame_locator("iframe").get_by_text("snp").first.wait_for()
    page.screenshot(path=SHOTS / "report.png")
