"""Pushing to a hub that is a folder."""

import shutil
import types

import pytest
from huggingface_hub import constants, utils

from sonarllm_cli.errors import RunError, UserError
from sonarllm_cli.weights import registry
from sonarllm_cli.weights.push import front_matter, push


class FakeHub:
    """What `push` asks of HfApi; `error` is raised where a file would be sent."""

    def __init__(self, root, error=None):
        self.root, self.error, self.calls = root, error, []

    def create_repo(self, repo, **options):
        self.calls.append((repo, options))
        return f"https://hub/{repo}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.error:
            raise self.error
        shutil.copytree(folder_path, self.root / repo_id)


def test_a_pushed_folder_is_the_model_with_a_card_the_hub_reads(home, tmp_path):
    hub, said = FakeHub(tmp_path), []
    assert push("tiny-llm", "me/my-model", private=True, say=said.append, api=hub) == "https://hub/me/my-model"
    assert hub.calls == [("me/my-model", {"private": True, "exist_ok": True})]
    folder, sent = registry.find("tiny-llm"), tmp_path / "me/my-model"
    assert (sent / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    card = (sent / "README.md").read_text()
    assert card.startswith("---\nlicense: ") and card.endswith((folder / "README.md").read_text())
    assert not (folder / "README.md").read_text().startswith("---") and "licence" in said[0]


def test_the_card_names_licence_kind_and_languages():
    config = {"kind": "sonar", "licence": "Apache-2.0", "langs": ["eng_Latn", "ita_Latn"]}
    assert front_matter(config).splitlines()[1:] == [
        *("license: apache-2.0", "library_name: sonarllm-cli", "tags:", "- sonar"),
        *("language:", "- eng", "- ita", "---", ""),
    ]


def refused(status):
    return utils.HfHubHTTPError("no", response=types.SimpleNamespace(status_code=status, headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refused(401), UserError, "refuses to write me/x .401.; set HF_TOKEN"),
        (refused(500), RunError, "can't push me/x"),
        (utils.LocalTokenNotFoundError("no"), UserError, "set HF_TOKEN"),
        (ConnectionError("down"), RunError, "down; check the network"),
    ],
)
def test_what_a_hub_refuses_is_one_line(home, tmp_path, error, kind, words):
    with pytest.raises(kind, match=words):
        push("tiny", "me/x", api=FakeHub(tmp_path, error))


def test_nothing_is_sent_of_a_bad_model_a_bad_name_or_offline(home, tmp_path, monkeypatch):
    hub = FakeHub(tmp_path)
    bad = tmp_path / "bad"
    shutil.copytree(registry.find("tiny"), bad)
    (bad / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UserError, match="its hash differs"):
        push(str(bad), "me/x", api=hub)
    with pytest.raises(UserError, match="give org/repo"):
        push("tiny", "no-owner", api=hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        push("tiny", "me/x", api=hub)
    assert not hub.calls
