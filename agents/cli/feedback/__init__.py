"""Build `rlhf feedback <verb>`: ask people about completions, and import and export what they said.

The extra `web` (SQLAlchemy and others) is imported only when a verb needs it.
"""

from __future__ import annotations

import typer

from ..options import add_command
from . import adding, answers, explaining, judging, labelling, people, project, queue, winning

__all__ = ["feedback_app"]

HELP = "Ask people about completions: put questions in, label at a web page or here, and take the answers out."
ASK, READ, PEOPLE, PROJECT = "Ask and answer", "Read the answers", "People", "The project as a whole"

feedback_app = typer.Typer(help=HELP, no_args_is_help=True)

add_command(feedback_app, adding.AddConfig, "add", ASK)(adding.add)
add_command(feedback_app, adding.ImportConfig, "import", ASK)(adding.import_)
add_command(feedback_app, project.SettingsConfig, "settings", ASK)(project.settings)
add_command(feedback_app, labelling.ServeConfig, "serve", ASK)(labelling.serve)
add_command(feedback_app, labelling.LabelConfig, "label", ASK)(labelling.label)
add_command(feedback_app, labelling.SimulateConfig, "simulate", ASK)(labelling.simulate)
add_command(feedback_app, judging.JudgeConfig, "judge", ASK)(judging.judge)
add_command(feedback_app, queue.PrioritiseConfig, "prioritise", ASK)(queue.prioritise)
add_command(feedback_app, queue.SuggestConfig, "suggest", ASK)(queue.suggest)
add_command(feedback_app, explaining.ExplainConfig, "explain", ASK)(explaining.explain)

add_command(feedback_app, answers.StatusConfig, "status", READ)(answers.status)
add_command(feedback_app, answers.ExportConfig, "export", READ)(answers.export)
add_command(feedback_app, answers.ForecastConfig, "forecast", READ)(answers.forecast)
add_command(feedback_app, winning.WinrateConfig, "winrate", READ)(winning.winrate)

add_command(feedback_app, people.InviteConfig, "invite", PEOPLE)(people.invite)
add_command(feedback_app, people.AccountConfig, "account", PEOPLE)(people.account)
add_command(feedback_app, people.ForgetConfig, "forget", PEOPLE)(people.forget)
add_command(feedback_app, people.PanelConfig, "panel", PEOPLE)(people.panel)

add_command(feedback_app, project.DropConfig, "drop", PROJECT)(project.drop)
add_command(feedback_app, project.AuditConfig, "audit", PROJECT)(project.audit)
add_command(feedback_app, project.ArchiveConfig, "archive", PROJECT)(project.archive)
add_command(feedback_app, project.BackupConfig, "backup", PROJECT)(project.backup)
add_command(feedback_app, project.RestoreConfig, "restore", PROJECT)(project.restore)
feedback_app.command("webhook-secret", rich_help_panel=PROJECT)(project.webhook_secret)
