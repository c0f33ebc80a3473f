"""The studio in a real browser, as a stranger meets it: nothing is silent, out of sight or left behind."""

from __future__ import annotations

import json
import re

import pytest

from noiseward.images.metadata import read_metadata
from tests.studio_server import SLOW, field, open_tab, wait_for_step

pytest_plugins = ["tests.studio_fixtures"]

TABS = ("Create", "You choose", "Runs", "Many", "Rewards")
JARGON = ("P(z)", "P(image)", "NFE", "strict", "settled", "killed", "interrupted", "keep_seed")


def is_in_view(page, selector):
    box = page.locator(selector).first.bounding_box()
    return box is not None and box["y"] < page.viewport_size["height"] - 50 and box["y"] + box["height"] > 50


def wait_for_text(page, selector, text, timeout=SLOW):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, text],
        timeout=timeout,
    )


def set_options(page, **values):
    """Fill in fields of 'All options'."""
    if not page.locator("#option-steps").is_visible():
        page.get_by_role("button", name="All options").click()
        for group in ("Budget", "Model", "Method"):
            page.locator("#all-options").get_by_role("button", name=group).first.click()
    for name, value in values.items():
        field(page, f"option-{name.replace('_', '-')}").fill(str(value))


def start(page, prompt, **options):
    """Start a run whose steps are short, and that does not end by itself before it is stopped."""
    set_options(page, **{"steps": 900, "num_inference_steps": 3, "method": "dno:guard=none", **options})
    field(page, "prompt").fill(prompt)
    page.click("#start-run")
    if not str(options.get("steps", "")).isdigit():  # one that lasts
        wait_for_text(page, "#queue", prompt.replace(" ", "-"))


def stop_all(page):
    """Empty the queue; a row may end by itself meanwhile, so what is there is clicked in the page, at once."""
    page.evaluate("[...document.querySelectorAll('#queue [data-do=cancel]')].reverse().forEach((one) => one.click())")
    page.wait_for_function("document.querySelectorAll('#queue li').length === 0", timeout=SLOW)


def test_words_that_the_model_does_not_know_are_named_before_the_start_with_close_ones_to_click(page):
    field(page, "prompt").fill("a unicron in a zeppelin")
    wait_for_text(page, "#prompt-note", "stickers does not know 'unicron'; did you mean unicorn")
    wait_for_text(page, "#prompt-note", "stickers does not know 'zeppelin', and draws the rest")
    page.locator("#prompt-note summary").click()
    assert "rabbit" in page.locator("#prompt-note").inner_text()
    page.locator("#prompt-note .nw-word").first.click()
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a unicorn in a zeppelin'")
    start(page, "a unicorn in a zeppelin")
    wait_for_text(page, "#run .nw-note", "stickers does not know 'in', 'zeppelin'", timeout=SLOW)  # as the log says it
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    stop_all(page)
    field(page, "prompt").fill("a duck")
    page.wait_for_function("document.querySelector('#prompt-note .nw-note') === null")


def test_a_new_run_leaves_nothing_of_another_on_the_page(page):
    start(page, "a frog")
    wait_for_step(page, 3)
    page.get_by_role("button", name="Frames along the way").click()
    page.locator("#frame input[type=range]").press("ArrowRight")
    page.wait_for_selector("[data-frame='1'] img")
    field(page, "prompt").fill("a heart")
    page.click("#start-run")
    wait_for_text(page, "#run", "a heart")
    wait_for_text(page, "#frame-image", "No frames yet")
    assert page.locator("#frame-image img").count() == 0
    assert page.locator("#frame input[type=range]").input_value() == "0"
    assert page.locator("#continue-here").is_disabled()
    stop_all(page)


def test_the_queue_is_seen_and_can_be_changed_from_any_tab(page, browser, server):
    for prompt in ("a duck", "a frog", "a cat"):
        start(page, prompt)
        wait_for_text(page, "#queue", prompt.replace(" ", "-"))
    wait_for_text(page, "#create-said", "a-cat-brightness waits in the queue at the top of the page, behind 2 others")
    rows = page.locator("#queue li")
    assert rows.count() == 3 and "waiting, number 2" in rows.nth(2).inner_text()
    other = browser.new_page()
    other.goto(server.address)
    wait_for_text(other, "#queue li:nth-child(3)", "a-cat-brightness")
    earlier = rows.nth(2).locator("[data-do=up]")
    earlier.focus()
    earlier.press("Enter")  # by keyboard: what is focused stays with the run
    for one in (page, other):
        wait_for_text(one, "#queue li:nth-child(2)", "a-cat-brightness")
    wait_for_text(page, "#queue-said", "a-cat-brightness comes earlier now")
    assert "a-cat" in page.evaluate("document.activeElement.closest('li')?.innerText || ''")
    rows.nth(2).locator("[data-do=cancel]").click()
    for one in (page, other):
        one.wait_for_function("document.querySelectorAll('#queue li').length === 2")
    wait_for_text(page, "#queue-said", "was removed from the queue")
    open_tab(other, "Rewards")
    other.locator("#queue li").nth(1).locator("[data-do=show]").click()
    other.wait_for_selector("#start-run")
    wait_for_text(other, "#run", "waiting")
    other.close()
    stop_all(page)


def test_a_preset_holds_for_who_presses_start_at_once(page, folder):
    page.evaluate(
        "() => { const labels = [...document.querySelectorAll('#preset label')];"
        "labels.find((one) => one.innerText.includes('Quick')).click();"
        "setTimeout(() => document.getElementById('start-run').click(), 30); }"
    )
    page.wait_for_selector("#queue li")
    wait_for_text(page, "#command", "--steps 8")
    stop_all(page)


def test_steps_beyond_reason_are_refused_and_many_are_remarked_on(page):
    set_options(page, steps="1000000000")
    page.click("#start-run")
    wait_for_text(page, "#create-said", "Steps must be <= 1000000, got '1000000000'")
    start(page, "a duck", steps=900_000)
    page.wait_for_selector("#queue li")
    wait_for_text(page, "#create-said .nw-note", "900,000 steps")
    assert "Stop keeps the best so far" in page.locator("#create-said").inner_text()
    stop_all(page)


def test_what_the_page_says_of_a_run_has_no_words_of_the_trade(page):
    start(page, "a duck", steps=4, num_inference_steps=4, method="")
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    wait_for_text(page, "#run", "the first steps take longest")
    page.wait_for_selector("#run [data-state=done]", timeout=SLOW)
    text = page.locator("#run").inner_text() + page.locator("#plots").inner_text()
    assert "finished" in text and "typical noise" in text and "took" in text
    assert [word for word in JARGON if word in text] == []
    assert "P(z)" in page.locator("#run abbr", has_text="typical noise").first.get_attribute("title")
    page.get_by_role("button", name="What the numbers mean").click()
    wait_for_text(page, "#meanings", "P(z)")
    open_tab(page, "Runs")
    page.wait_for_selector(".nw-card")
    assert [word for word in JARGON if word in page.locator("#gallery").inner_text()] == []
    page.locator("#runs-state input").click()
    words = page.locator("[role=option]").all_inner_texts()
    assert [word.strip(" ✓\n") for word in words] == "any,waiting,running,finished,stopped,cut off,failed".split(",")


def test_one_of_several_images_is_chosen_for_frames_wipe_and_download(page, folder):
    start(page, "a star", batch=2, steps=1)
    page.wait_for_selector("#run [data-state=done]", timeout=SLOW)
    page.get_by_role("button", name="Before and after").click()
    page.get_by_role("button", name="Frames along the way").click()
    page.wait_for_selector("#wipe img")
    shown = "document.querySelector('#wipe img').src + document.querySelector('#wipe img:last-of-type').src"
    first = page.evaluate(shown)
    page.locator("#row input").click()
    page.get_by_role("option", name="a star, seed 1").click()
    page.wait_for_function(f"(first) => ({shown}) !== first && ({shown}).includes('01.png')", arg=first)
    page.wait_for_function("document.querySelector('#frame-image img').src.includes('-01.png')")
    page.click("#continue-here")
    wait_for_text(page, "#run", "a star", timeout=SLOW)
    page.wait_for_function("document.querySelector('#command').innerText.includes('@0:1') ||"
                           "document.querySelector('#command').innerText.includes(':1')", timeout=SLOW)  # fmt: skip
    written = folder / "a-star-brightness-2" / "spec.json"  # when its turn comes
    for _ in range(SLOW // 200):
        if written.exists():
            break
        page.wait_for_timeout(200)
    stop_all(page)
    assert json.loads(written.read_text())["batch"] == 1


def test_the_best_is_downloaded_with_what_made_it_and_rendered_with_more_steps(page, folder):
    start(page, "a moon", steps=1, num_inference_steps=5)
    wait_for_text(page, "#run", "a moon", timeout=SLOW)
    page.wait_for_selector("#run [data-state=done]", timeout=SLOW)
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_selector("#wipe img")
    with page.expect_download() as found:
        page.click("#download")
    made = read_metadata(found.value.path())
    assert made["prompt"] == "a moon"
    page.get_by_role("button", name="Render with more steps").click()
    page.locator("#render-steps input").fill("7")
    page.click("#render")
    wait_for_text(page, "#render-said", "num_inference_steps=7 is not nested with the 5 of the run")
    page.locator("#render-steps input").fill("10")
    page.click("#render")
    page.wait_for_selector("#rendered img", timeout=SLOW)
    assert list((folder / "a-moon-brightness/render/steps-10").glob("*.png"))


def test_comparing_and_deleting_say_what_they_did_where_it_is_seen(page, folder):
    for prompt in ("a duck", "a frog"):
        start(page, prompt, steps=1)
        wait_for_text(page, "#run", prompt)
        page.wait_for_selector("#run [data-state=done]", timeout=SLOW)
    open_tab(page, "Runs")
    page.wait_for_selector(".nw-card")
    page.click("#compare-runs")
    wait_for_text(page, "#runs-said .nw-error", "choose a run first: click its image")
    field(page, "find-runs").fill("frog")
    page.wait_for_function("[...document.querySelectorAll('.nw-card')].every((one) => one.innerText.includes('frog'))")
    field(page, "find-runs").fill("")
    page.locator(".nw-card[data-name^=a-duck]").first.click()
    page.locator(".nw-card[data-name^=a-frog]").first.click()
    page.wait_for_function("document.querySelector('#chosen textarea, #chosen input').value.includes(',')")
    page.click("#compare-runs")
    page.wait_for_function("document.querySelectorAll('#compared .nw-run').length === 2")
    page.wait_for_timeout(1000)
    assert is_in_view(page, "#compared figure") and is_in_view(page, "#runs-said")
    keys = page.locator("#compared .nw-key").all_inner_texts()
    assert sorted(key[:6] for key in keys) == ["a-duck", "a-frog"]
    page.click("#close-comparison")
    page.wait_for_selector("#compared", state="hidden")
    page.click("#compare-runs")
    page.wait_for_selector("#compared figure")
    count = page.locator(".nw-card").count()
    assert page.locator(".nw-card[aria-pressed=true]").count() == 2  # what was chosen stays so
    page.click("#delete-runs")
    wait_for_text(page, "#runs-said", "put into the trash: a-")
    page.wait_for_selector("#compared", state="hidden")  # it may be of what is gone
    page.wait_for_function(f"document.querySelectorAll('.nw-card').length === {count - 2}")
    page.wait_for_function("document.querySelector('#chosen textarea, #chosen input').value === ''")
    assert is_in_view(page, "#runs-said")
    page.click("#restore-runs")
    wait_for_text(page, "#runs-said", "brought back: a-duck")
    page.wait_for_function(f"document.querySelectorAll('.nw-card').length === {count}")


def test_back_and_forward_go_between_tabs_and_a_reload_stays(page, server):
    for name in TABS[1:4]:
        open_tab(page, name)
    assert page.url.endswith("#many")
    page.go_back()
    page.wait_for_selector("#gallery")
    page.go_back()
    page.wait_for_selector("#begin-looks")
    page.go_forward()
    page.wait_for_selector("#open-run")
    page.reload()
    page.wait_for_selector("#open-run")
    page.goto("about:blank")
    page.go_back()  # from another page: it is there again, and alive
    page.wait_for_selector("#open-run")
    open_tab(page, "Create")
    start(page, "a duck")
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    stop_all(page)


def test_all_is_reached_by_keyboard(page):
    field(page, "prompt").focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#run [data-state=running]", timeout=SLOW)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "stop-run":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#run [data-state=interrupted]", timeout=SLOW)
    page.get_by_role("tab", name="Runs", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".nw-card")
    page.locator(".nw-card").first.focus()
    page.keyboard.press("Space")
    page.wait_for_selector(".nw-card[aria-pressed=true]")
    assert page.evaluate("document.activeElement.classList.contains('nw-card')")  # it keeps the focus


def test_methods_are_compared_from_the_page(page):
    set_options(page, num_inference_steps=4)
    open_tab(page, "Many")
    wait_for_text(page, "#many-with", "As in Create: more brightness, model stickers")
    field(page, "many-prompts").fill("a duck, a dukc")
    wait_for_text(page, "#many-note", "did you mean duck")
    field(page, "many-prompts").fill("a duck")
    page.click("#stop-sweep")
    wait_for_text(page, "#many-said", "nothing is running here")
    page.get_by_role("tab", name="Compare methods").click()
    field(page, "compare-methods").fill("best-of-n,nonsense")
    field(page, "compare-budget").fill("nfe=24")
    field(page, "compare-seeds").fill("1")
    page.click("#begin-compare")
    wait_for_text(page, "#many-said", "started: compare-a-duck-brightness", timeout=60_000)
    wait_for_text(page, "#sweep .nw-error", "unknown method 'nonsense'", timeout=SLOW)
    field(page, "compare-methods").fill("best-of-n")
    page.click("#begin-compare")
    wait_for_text(page, "#many-said", "started: compare-a-duck-brightness")
    page.wait_for_selector("#sweep iframe", timeout=SLOW)
    wait_for_text(page, "#sweep", "finished")


def test_a_chat_model_is_added_as_a_judge_by_a_form(page):
    open_tab(page, "Rewards")
    page.get_by_role("button", name="Add a chat model as a judge").click()
    page.click("#add-chat")
    wait_for_text(page, "#chat-said .nw-error", "Model is missing")
    field(page, "chat-model").fill("qwen2.5vl")
    field(page, "chat-base-url").fill("http://127.0.0.1:9/v1")
    field(page, "chat-rubric").fill("round, and red")
    page.click("#add-chat")
    text = 'chat:model=qwen2.5vl,base_url=http://127.0.0.1:9/v1,rubric="round, and red"'
    wait_for_text(page, "#chat-said", f"added to the rewards of Create: {text}")
    open_tab(page, "Create")
    assert text in page.locator("#reward").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1280, "dark")])
def test_every_tab_fits_and_is_readable_on_a_phone_and_in_the_dark(browser, server, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(server.address)
    page.wait_for_selector("#start-run")
    for name in TABS:
        open_tab(page, name)  # which is no entry of a menu
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        faint = page.evaluate(FAINT)
        assert faint == [], (name, faint)
    page.close()


FAINT = """
() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (one) => { for (; one; one = one.parentElement) {
    const c = parse(getComputedStyle(one).backgroundColor);
    if (c.length < 4 || c[3] > .9) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('.info-text, .nw-small, .nw-empty, label span, button')]
    .filter((one) => one.offsetParent && one.innerText && !one.disabled)
    .map((one) => { const a = light(parse(getComputedStyle(one).color)), b = light(ground(one));
      return [one.innerText.slice(0, 30), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; })
    .filter(([, ratio]) => ratio < 3);
}
"""


def test_on_a_phone_the_run_that_was_started_is_brought_into_view(browser, server):
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(server.address)
    page.wait_for_selector("#start-run")
    field(page, "prompt").fill("a cat")
    page.locator("#start-run").scroll_into_view_if_needed()
    page.click("#start-run")
    wait_for_text(page, "#run", "a cat")
    page.wait_for_timeout(1500)
    assert is_in_view(page, "#run .nw-head")
    stop_all(page)
    page.close()


def test_what_is_asked_before_its_time_is_answered_next_to_the_button(page):
    for button in ("next-look", "none-of-these", "undo-look", "keep-look"):
        page.reload()
        open_tab(page, "You choose")
        page.click(f"#{button}")
        wait_for_text(page, "#choose-said .nw-error", "there is nothing to choose from yet; press Begin")
    page.get_by_text("Rank", exact=True).click()
    wait_for_text(page, "#choose-mode", "from best to worst")
    assert re.search(r"after your first answer", page.locator("#look-center").inner_text(), re.IGNORECASE)
