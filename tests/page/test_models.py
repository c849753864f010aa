"""The page of models: what is here and loaded, described, promoted, downloaded and deleted."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect
from safetensors.numpy import save

from tests.page.conftest import Opener
from tests.server import Server

pytestmark = pytest.mark.thorough

NAME = "adapters/town <b>&"


@pytest.fixture(scope="module", autouse=True)
def adapter(page_server: Server) -> None:
    """An adapter with a name that tries to be more than text."""
    folder = page_server.home / NAME
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "tunesmith-small", "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(save({}))


def test_models_are_listed_and_one_is_described_downloaded_and_kept_over_a_reload(
    open_page: Opener, tmp_path: Path
) -> None:
    page = open_page("/app/models", language="en-US")
    expect(page.get_by_role("region", name="Loaded now")).to_contain_text("tunesmith-small")
    expect(page.get_by_role("region", name="Loaded now")).to_contain_text("current")
    page.get_by_role("link", name=NAME, exact=True).click()
    expect(page.get_by_role("heading", name=NAME)).to_be_visible()
    expect(page.get_by_role("link", name="Try it")).to_have_attribute(
        "href", "/app/playground?model=tunesmith-small&model=adapters%2Ftown%20%3Cb%3E%26"
    )
    page.get_by_role("button", name="Edit description").click()
    page.get_by_role("textbox", name="Description").fill("<script>1</script>\nsecond line")
    page.get_by_role("button", name="Save").click()
    page.reload()
    expect(page.get_by_role("region", name="Description")).to_contain_text("<script>1</script>")
    with page.expect_download() as begun:
        page.get_by_role("button", name="Download (zip)").click()
    begun.value.save_as(tmp_path / "town.zip")
    assert "adapter_model.safetensors" in zipfile.ZipFile(tmp_path / "town.zip").namelist()


def test_an_alias_is_made_moved_back_and_removed_before_the_adapter_is_deleted(open_page: Opener) -> None:
    page = open_page("/app/models", language="zh-CN", theme="dark", allowed="status of 409")
    page.get_by_role("link", name=NAME, exact=True).click()
    page.get_by_role("button", name="发布").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("别名").fill("prod")
    dialog.get_by_text("不比较，直接发布").click()
    dialog.get_by_role("button", name="发布").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("row", name=re.compile("别名"))).to_contain_text("prod")
    page.get_by_role("button", name="删除").click()
    dialog.get_by_role("button", name="删除").click()
    expect(dialog.get_by_role("alert")).to_contain_text("prod")  # what points at it is named, and it stays
    dialog.get_by_role("button", name="取消").click()
    page.get_by_role("link", name="全部模型").click()
    page.get_by_role("button", name="prod 的历史").click()
    expect(dialog).to_contain_text("town <b>&@1")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="删除别名 prod").click()
    dialog.get_by_role("button", name="删除别名").click()
    expect(page.get_by_role("button", name="删除别名 prod")).to_have_count(0)
    page.get_by_role("link", name=NAME, exact=True).click()
    page.get_by_role("button", name="删除").click()
    dialog.get_by_role("button", name="删除").click()
    expect(page).to_have_url(re.compile("/models$"))
    expect(page.get_by_role("link", name=NAME, exact=True)).to_have_count(0)
