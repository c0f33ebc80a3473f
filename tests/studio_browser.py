"""The studio in a real browser, on the built-in model: what an artist does, and what goes wrong.

Needs Chromium (`apt-get install chromium`). `scripts/studio-test` runs this file and `studio_stranger.py`, and
`scripts/test` does after all other tests, one at a time, where there is a browser.
"""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.studio_server import SLOW, Server, field, open_tab, wait_for_step

pytest_plugins = ["tests.studio_fixtures"]
DRAWN = "document.querySelectorAll('#tiles img').length === 4"


def test_an_artist_starts_a_run_sees_it_improve_stops_and_goes_on_from_a_frame(page, folder):
    page.wait_for_selector("#run .nw-empty")
    assert "write a prompt" in page.locator("#run").inner_text()
    page.get_by_text("Quick look", exact=True).click()
    page.click("#start-run")
    wait_for_step(page, 1)
    for _ in range(2):  # two live updates
        now = page.locator("#run img").nth(1).get_attribute("src")
        assert "/.studio/live/a-duck-brightness/now-00.png" in now
        page.wait_for_function(
            "now => ![now, undefined].includes("
            "document.querySelectorAll('#run [data-state=running] img')[1]?.getAttribute('src'))",
            arg=now,
            timeout=SLOW,
        )
    page.click("#stop-run")
    page.wait_for_selector("#run [data-state=interrupted]", timeout=SLOW)
    assert (folder / "a-duck-brightness/status.json").exists()
    page.wait_for_function("document.querySelector('#command').innerText.includes('noiseward resume')")
    page.get_by_role("button", name="Frames along the way").click()
    slider = page.locator("#frame input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_selector("[data-frame='1'] img")
    page.click("#continue-here")
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    page.wait_for_function("document.querySelector('#run').innerText.includes('refine')", timeout=SLOW)
    page.click("#stop-run")
    page.wait_for_selector("#run [data-state=interrupted]", timeout=SLOW)
    assert (folder / "a-duck-brightness-2/inputs/start.safetensors").exists()


def test_a_page_that_is_reloaded_finds_its_run_still_running_and_so_do_two_tabs(page, browser, server, folder):
    field(page, "prompt").fill("a frog")
    page.click("#start-run")
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    page.reload()
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    assert "a frog" in page.locator("#run").inner_text()
    other = browser.new_page()
    other.goto(server.address)
    other.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    step = int(other.locator("#run .nw-run").get_attribute("data-step"))
    for one in (page, other):
        one.wait_for_function(f"+document.querySelector('#run .nw-run').dataset.step > {step}", timeout=SLOW)
    other.click("#pause-run")
    for one in (page, other):
        one.wait_for_selector("#run [data-state=paused]", timeout=SLOW)
    page.click("#resume-run")
    other.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    other.close()
    page.click("#stop-run")
    page.wait_for_selector("#run [data-state=interrupted]", timeout=SLOW)


def begin_looks(page, prompt):
    """Have four variations of a prompt drawn, in a few denoising steps."""
    open_tab(page, "You choose")
    page.get_by_role("button", name="More options").click()
    page.get_by_text("Denoising steps", exact=True).last.wait_for()
    field(page, "choose-prompt").fill(prompt)
    field(page, "choose-num-inference-steps").fill("3")
    page.locator("#choose-count input[type=number]").fill("4")
    page.locator("#choose-count input[type=number]").press("Enter")
    page.click("#begin-looks")
    page.wait_for_function(DRAWN, timeout=SLOW)


def test_a_person_chooses_twice_and_takes_an_image_back(page, folder):
    begin_looks(page, "a heart")
    page.click("#next-look")
    page.wait_for_function("document.querySelector('#choose-said').innerText.includes('click at least one image')")
    page.locator("#tiles button").nth(1).click()
    page.wait_for_selector("#tiles button[aria-pressed=true]")
    page.click("#next-look")
    page.wait_for_selector("[data-looks='1']", timeout=SLOW)
    page.wait_for_function(DRAWN, timeout=SLOW)
    page.locator("body").press("2")  # by keyboard
    page.wait_for_selector("#tiles button[aria-pressed=true]")
    page.locator("body").press("n")
    page.wait_for_selector("[data-looks='2']", timeout=SLOW)
    page.wait_for_function(DRAWN, timeout=SLOW)
    page.click("#undo-look")
    page.wait_for_selector("[data-looks='1']", timeout=SLOW)
    page.locator("#tiles button").nth(0).click()
    page.wait_for_selector("#tiles button[aria-pressed=true]")
    page.click("#keep-look")
    page.wait_for_selector("#start-run")
    assert "a-heart-chosen/looks/001.safetensors:0" in field(page, "option-start").input_value()
    assert field(page, "prompt").input_value() == "a heart"
    assert len(list((folder / "a-heart-chosen/looks").glob("*.safetensors"))) == 3


def test_runs_are_found_compared_tagged_deleted_and_given_back(page, folder):
    open_tab(page, "Runs")
    page.wait_for_selector(".nw-card")
    assert page.locator(".nw-card").count() == 4
    field(page, "find-runs").fill("duck")
    page.wait_for_function("document.querySelectorAll('.nw-card').length === 2")
    page.locator(".nw-card").nth(0).click()
    page.locator(".nw-card").nth(1).click()
    page.wait_for_function("document.querySelector('#chosen textarea, #chosen input').value.includes(',')")
    page.click("#compare-runs")
    page.wait_for_function("document.querySelectorAll('#compared .nw-run').length === 2")
    field(page, "tags").fill("mine")
    page.click("#tag-runs")
    page.wait_for_selector(".nw-tag")
    page.click("#delete-runs")
    page.wait_for_function("document.querySelectorAll('.nw-card').length === 0")
    assert not (folder / "a-duck-brightness").exists()
    page.click("#restore-runs")
    page.wait_for_function("document.querySelectorAll('.nw-card').length === 2")
    assert (folder / "a-duck-brightness/spec.json").exists()
    page.locator(".nw-card[data-name=a-duck-brightness]").click()
    page.click("#open-run")
    page.wait_for_function("document.querySelector('#run').innerText.startsWith('a duck')")


def test_images_are_ranked_and_rated(page, folder):
    begin_looks(page, "a pizza")
    tiles = page.locator("#tiles button")
    page.locator("#choose-mode").get_by_text("Rank", exact=True).click()
    page.locator("#choose-mode").get_by_text("from best to worst").wait_for()
    for image in (2, 0):
        tiles.nth(image).click()
    page.wait_for_function("document.querySelectorAll('#tiles button span').length === 2")
    assert (tiles.nth(2).inner_text(), tiles.nth(0).inner_text()) == ("1", "2")
    page.click("#next-look")
    page.wait_for_selector("[data-looks='1']", timeout=SLOW)
    page.wait_for_function(DRAWN, timeout=SLOW)
    page.locator("#choose-mode").get_by_text("Rate", exact=True).click()
    page.locator("#choose-mode").get_by_text("stars").wait_for()
    for _ in range(3):
        tiles.nth(1).click()
    page.locator("#tiles").get_by_text("\u2605\u2605\u2605").wait_for()
    page.click("#next-look")
    page.wait_for_selector("[data-looks='2']", timeout=SLOW)
    answers = [one["scores"] for one in json.loads((folder / "a-pizza-chosen/session.json").read_text())["looks"]]
    assert answers[:2] == [[3, 0, 4, 0], [0, 3, 0, 0]]


def test_a_batch_is_begun_and_its_report_is_in_the_page(page, folder):
    page.get_by_text("All options").click()
    page.locator("#all-options").get_by_role("button", name="Budget").click()
    field(page, "option-steps").fill("ten")
    page.click("#start-run")
    page.wait_for_function(
        "document.querySelector('#create-said').innerText === \"Steps must be an integer, got 'ten'\""
    )
    field(page, "option-steps").fill("1")
    open_tab(page, "Many")
    field(page, "many-prompts").fill("a duck")
    page.click("#begin-batch")
    page.wait_for_selector("#sweep iframe", timeout=SLOW)
    frame = page.frame_locator("#sweep iframe")
    assert "1 done" in frame.locator("body").inner_text()
    page.wait_for_function("document.querySelector('#sweep-command').innerText.includes('noiseward batch')")


def test_rewards_score_images(page, folder):
    open_tab(page, "Rewards")
    page.click("#score")
    page.wait_for_function("document.querySelector('#rewards-said').innerText.includes('give at least one image')")
    files = [str(folder / f"a-duck-brightness/{which}/00.png") for which in ("initial", "best")]
    page.set_input_files("#score-images input[type=file]", files)
    page.wait_for_function("document.querySelector('#score-images').innerText.includes('KB')")
    page.click("#score")
    page.wait_for_selector("#scores table", timeout=SLOW)
    assert page.locator("#scores tbody tr").count() == 2 and page.locator("#scores img").count() == 2
    assert page.locator("#code").count() == 0  # not without --allow-code


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1200, "dark")])
def test_pages_fit_a_phone_and_are_dark_where_that_is_asked_for(browser, server, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(server.address)
    page.wait_for_selector("#start-run")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 3 * 128
    assert light == (scheme == "light")
    page.close()


def test_a_page_keeps_up_with_its_run(page, folder):
    """When a step appears on the page, the log is at most a step further. (benchmarks/studio.py has the delay.)"""
    field(page, "prompt").fill("a star")
    page.click("#start-run")
    wait_for_step(page, 2)
    page.evaluate(
        "() => { window.seen = {}; const look = () => { const run = document.querySelector('#run .nw-run');"
        "if (run) window.seen[run.dataset.step] ??= Date.now(); requestAnimationFrame(look); }; look(); }"
    )
    log, written = folder / "a-star-brightness/steps.jsonl", {}
    for _ in range(SLOW // 20):
        count = log.read_text().count("\n")
        written.setdefault(str(count), time.time() * 1000)
        if count >= 7 or page.locator("#run [data-state=done]").count():
            break
        time.sleep(0.02)
    page.wait_for_timeout(500)
    seen = page.evaluate("window.seen")
    behind = [sum(at < seen[step] for at in written.values()) - list(written).index(step) - 1
              for step in written if step in seen and int(step) > 2]  # fmt: skip
    assert behind and sorted(behind)[len(behind) // 2] <= 1, (behind, written, seen)
    if page.locator("#run [data-state=running]").count():
        page.click("#stop-run")


def test_a_server_that_is_killed_and_started_again_loses_nothing(browser, folder, server, tmp_path):
    runs = tmp_path / "runs"
    first = Server(runs)
    page = browser.new_page()
    page.goto(first.address)
    page.wait_for_selector("#start-run")
    page.click("#start-run")
    wait_for_step(page, 3)
    first.kill()
    second = Server(runs)
    page.goto(second.address)
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    page.wait_for_function("+document.querySelector('#run .nw-run').dataset.step > 3", timeout=SLOW)
    page.close()
    said = second.end()
    assert "ended" in said and "Traceback" not in said
    assert "interrupted" in (runs / "a-duck-brightness/status.json").read_text()


def test_code_is_written_only_where_it_was_allowed(browser, tmp_path):
    server = Server(tmp_path / "runs", "--allow-code")
    page = browser.new_page()
    page.goto(server.address)
    page.wait_for_selector("#start-run")
    open_tab(page, "Rewards")
    page.get_by_text("Write a reward").click()
    page.click("#save-code")
    page.wait_for_function("document.querySelector('#code-said').innerText.includes('saved as redness')")
    open_tab(page, "Create")
    assert "redness" in page.locator("#reward").inner_text()
    page.close()
    assert (tmp_path / "runs/.studio/rewards/redness.py").exists()
    server.end()
