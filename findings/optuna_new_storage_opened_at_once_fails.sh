#!/bin/sh
# optuna 5.0.0: of several processes that open one new storage at once, all but one die, also with load_if_exists=True.
#
# Expected: the first one makes the tables, and the others find them. Optuna means this to work: the row of `version_info`,
# which all of them write too, is added with `ignore_integrity_error`, and a study that another process made is loaded.
# What happens: the others end with sqlalchemy's IntegrityError (alembic_version) or OperationalError (table studies already
# exists), which no documentation names. Once the storage is there, any number of processes open it.
# Source: optuna/storages/_rdb/storage.py, `RDBStorage.__init__` (create_all) and `_VersionManager._set_alembic_revision`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check optuna==5.0.0
cat >race.py <<'PY'
import multiprocessing

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(barrier, outcomes, url):
    barrier.wait()
    try:
        optuna.create_study(storage=url, study_name="s", load_if_exists=True)
        outcomes.put("opened")
    except Exception as error:
        outcomes.put(f"{type(error).__name__}: {error.orig}")


def open_at_once(url, n=4):
    barrier, outcomes = multiprocessing.Barrier(n), multiprocessing.Queue()
    processes = [multiprocessing.Process(target=open_study, args=(barrier, outcomes, url)) for _ in range(n)]
    for process in processes:
        process.start()
    found = sorted(outcomes.get() for _ in processes)
    for process in processes:
        process.join()
    return found


if __name__ == "__main__":
    failed = 0
    for trial in range(5):
        url = f"sqlite:///study_{trial}.db"
        new, old = open_at_once(url), open_at_once(url)
        print(f"new: {'; '.join(new)}\n  there already: {'; '.join(old)}")
        failed += new.count("opened") < len(new)
        assert old.count("opened") == len(old)
    print(f"a process failed in {failed} of 5 trials")
    assert failed
PY
venv/bin/python -c "import optuna; print('optuna', optuna.__version__)"
venv/bin/python race.py
