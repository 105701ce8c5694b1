#!/bin/sh
# optuna 5.0.0: the trial of a killed process stays "running" for ever, and its settings are not tried.
#
# Expected: the next process that optimises the study finds that the other one is gone, or a flag asks it to.
# What happens: without a heartbeat (off by default, experimental) nothing ever ends the trial. With one, a trial counts as
# stale only after its grace period (twice the interval), so a process that starts at once passes it by. A trial that began
# before the heartbeat was switched on has none, and stays running with it too.
# Source: optuna/storages/_heartbeat.py, `fail_stale_trials`; optuna/storages/_rdb/storage.py, `_get_stale_trial_ids`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check optuna==5.0.0
cat >search.py <<'PY'
import os
import signal
import sys
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    value = trial.suggest_float("x", 0, 1)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return value


interval = 60 if sys.argv[1] == "heartbeat" else None
storage = optuna.storages.RDBStorage("sqlite:///study.db", heartbeat_interval=interval)
study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
study.optimize(objective, n_trials=1)
print(sys.argv[1], [trial.state.name for trial in study.trials])
PY
venv/bin/python -c "import optuna; print('optuna', optuna.__version__)"
venv/bin/python search.py killed || true
venv/bin/python search.py again | tee again
venv/bin/python search.py heartbeat | tee -a again
grep -q "again \['RUNNING', 'COMPLETE'\]" again
grep -q "heartbeat \['RUNNING', 'COMPLETE', 'COMPLETE'\]" again
