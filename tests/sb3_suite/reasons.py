"""The tests of Stable-Baselines3 and sb3-contrib that cannot pass with our policy and environments, each with a reason.

A pattern is a test's id, `file::name[variant-parameters]`, in which `*` stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["FILES", "REASONS", "find_reason", "unmatched"]

OFF_POLICY = "SAC, TD3, DDPG or DQN, where a text environment stands for Pendulum or CartPole: not PPO or A2C"
CONTRIB = "ARS, TQC, CrossQ or QR-DQN, where a text environment stands for Pendulum or CartPole: not TRPO"
SDE = "use_sde=True: state-dependent exploration is for continuous actions; TokenPolicy refuses it by name"
SPACES = "trains on SB3's own environment, whose spaces are no tokens; TokenPolicy refuses them by name"
OLD_NET_ARCH = "expects SB3's warning about an old form of net_arch: TokenPolicy has no MLP"
SCALE = "expects a positive loss, which Pendulum's returns of -1000 give; ours are near 0, as is the loss"
VEC_NORMALIZE = "VecNormalize rescales the observations: token ids are names, not magnitudes (norm_obs=False works)"
TWO_MONITORS = "TextVecEnv keeps Monitor's statistics itself: VecMonitor warns, as it does over SB3's own make_vec_env"
HALF_SAC = "the part with PPO passes; then SAC, where a text environment stands for Pendulum"

# Of sb3-contrib, test_deterministic has no TRPO, and MaskablePPO, RecurrentPPO and QR-DQN (test_invalid_actions,
# test_lstm) want policies of their own classes, with masks, LSTM states or quantiles.
FILES = {
    "stable-baselines3": (
        "save_load",
        "run",
        "deterministic",
        "predict",
        "custom_policy",
        "vec_check_nan",
        "vec_monitor",
        "callbacks",
    ),
    "sb3-contrib": ("save_load", "run", "utils", "identity"),
}

REASONS: dict[str, dict[str, str]] = {
    "stable-baselines3": {
        "test_save_load.py::test_save_load[*-SAC]": OFF_POLICY,
        "test_save_load.py::test_save_load[*-TD3]": OFF_POLICY,
        "test_save_load.py::test_save_load[*-DDPG]": OFF_POLICY,
        "test_save_load.py::test_set_env[*-SAC]": OFF_POLICY,
        "test_save_load.py::test_set_env[*-TD3]": OFF_POLICY,
        "test_save_load.py::test_set_env[*-DDPG]": OFF_POLICY,
        "test_save_load.py::test_exclude_include_saved_params[*-SAC]": OFF_POLICY,
        "test_save_load.py::test_exclude_include_saved_params[*-TD3]": OFF_POLICY,
        "test_save_load.py::test_exclude_include_saved_params[*-DDPG]": OFF_POLICY,
        "test_save_load.py::test_save_load_pytorch_var[*]": OFF_POLICY,
        "test_save_load.py::test_save_load_replay_buffer[*-SAC]": OFF_POLICY,
        "test_save_load.py::test_save_load_replay_buffer[*-TD3]": OFF_POLICY,
        "test_save_load.py::test_warn_buffer[*-SAC]": OFF_POLICY,
        "test_save_load.py::test_warn_buffer[*-TD3]": OFF_POLICY,
        "test_save_load.py::test_save_load_policy[*-False-MlpPolicy-SAC]": OFF_POLICY,
        "test_save_load.py::test_save_load_policy[*-False-MlpPolicy-TD3]": OFF_POLICY,
        "test_save_load.py::test_save_load_policy[*-False-MlpPolicy-DDPG]": OFF_POLICY,
        "test_save_load.py::test_save_load_policy[*-True-MlpPolicy-SAC]": OFF_POLICY,
        "test_save_load.py::test_save_load_policy[*-True-MlpPolicy-PPO]": SDE,
        "test_save_load.py::test_save_load_policy[*-True-MlpPolicy-A2C]": SDE,
        "test_save_load.py::test_dqn_target_update_interval[*]": OFF_POLICY,
        "test_save_load.py::test_save_load_no_target_params[*]": OFF_POLICY,
        "test_save_load.py::test_no_resource_warning[*]": HALF_SAC,
        "test_run.py::test_deterministic_pg[*]": OFF_POLICY,
        "test_run.py::test_sac[*]": OFF_POLICY,
        "test_run.py::test_n_critics[*]": OFF_POLICY,
        "test_run.py::test_dqn[*]": OFF_POLICY,
        "test_run.py::test_train_freq[*]": OFF_POLICY,
        "test_run.py::test_train_freq_fail[*]": OFF_POLICY,
        "test_run.py::test_offpolicy_multi_env[*]": OFF_POLICY,
        "test_run.py::test_warn_dqn_multi_env[*]": OFF_POLICY,
        "test_run.py::test_ppo_warnings[*]": SCALE,
        "test_deterministic.py::test_deterministic_training_common[*-SAC]": OFF_POLICY,
        "test_deterministic.py::test_deterministic_training_common[*-TD3]": OFF_POLICY,
        "test_deterministic.py::test_deterministic_training_common[*-DQN]": OFF_POLICY,
        "test_predict.py::test_auto_wrap[*-SAC]": OFF_POLICY,
        "test_predict.py::test_auto_wrap[*-TD3]": OFF_POLICY,
        "test_predict.py::test_auto_wrap[*-DQN]": OFF_POLICY,
        "test_predict.py::test_predict[*-Pendulum-v1-SAC]": OFF_POLICY,
        "test_predict.py::test_predict[*-Pendulum-v1-TD3]": OFF_POLICY,
        "test_predict.py::test_predict[*-CartPole-v1-DQN]": OFF_POLICY,
        "test_predict.py::test_subclassed_space_env[*-A2C]": SPACES,
        "test_predict.py::test_subclassed_space_env[*-PPO]": SPACES,
        "test_custom_policy.py::test_flexible_mlp[*-net_arch7]": OLD_NET_ARCH,
        "test_custom_policy.py::test_flexible_mlp[*-net_arch8]": OLD_NET_ARCH,
        "test_custom_policy.py::test_custom_offpolicy[*]": OFF_POLICY,
        "test_custom_policy.py::test_custom_optimizer[*-SAC]": OFF_POLICY,
        "test_custom_policy.py::test_custom_optimizer[*-TD3]": OFF_POLICY,
        "test_custom_policy.py::test_custom_optimizer[*-DQN]": OFF_POLICY,
        "test_custom_policy.py::test_dqn_custom_policy[*]": OFF_POLICY,
        "test_vec_monitor.py::test_vec_monitor_ppo[ours]": TWO_MONITORS,
        "test_callbacks.py::test_callbacks[*-SAC]": OFF_POLICY,
        "test_callbacks.py::test_callbacks[*-TD3]": OFF_POLICY,
        "test_callbacks.py::test_callbacks[*-DQN]": OFF_POLICY,
        "test_callbacks.py::test_callbacks[*-DDPG]": OFF_POLICY,
        "test_callbacks.py::test_callbacks_can_cancel_runs[*-SAC-*]": OFF_POLICY,
        "test_callbacks.py::test_eval_callback_vec_env[*]": SPACES,
        "test_callbacks.py::test_eval_callback_logs_are_written_with_the_correct_timestep[*]": OFF_POLICY,
        "test_callbacks.py::test_eval_friendly_error[*]": VEC_NORMALIZE,
        "test_callbacks.py::test_checkpoint_additional_info[*]": OFF_POLICY,
    },
    "sb3-contrib": {
        "test_run.py::test_crossq[*]": CONTRIB,
        "test_run.py::test_tqc[*]": CONTRIB,
        "test_run.py::test_n_critics[*]": CONTRIB,
        "test_run.py::test_sde[*]": CONTRIB,
        "test_run.py::test_qrdqn[*]": CONTRIB,
        "test_run.py::test_ars[*]": CONTRIB,
        "test_run.py::test_ars_multi_env[*]": CONTRIB,
        "test_run.py::test_ars_n_top[*]": CONTRIB,
        "test_run.py::test_offpolicy_multi_env[*]": CONTRIB,
        "test_run.py::test_ep_buffers_stats_window_size[*-QRDQN]": CONTRIB,
        "test_run.py::test_trpo_params[*]": SDE,
        "test_save_load.py::test_save_load[*-ARS]": CONTRIB,
        "test_save_load.py::test_save_load[*-TQC]": CONTRIB,
        "test_save_load.py::test_save_load[*-CrossQ]": CONTRIB,
        "test_save_load.py::test_set_env[*-ARS]": CONTRIB,
        "test_save_load.py::test_set_env[*-TQC]": CONTRIB,
        "test_save_load.py::test_set_env[*-CrossQ]": CONTRIB,
        "test_save_load.py::test_exclude_include_saved_params[*-ARS]": CONTRIB,
        "test_save_load.py::test_exclude_include_saved_params[*-TQC]": CONTRIB,
        "test_save_load.py::test_exclude_include_saved_params[*-CrossQ]": CONTRIB,
        "test_save_load.py::test_save_load_replay_buffer[*-TQC]": CONTRIB,
        "test_save_load.py::test_save_load_policy[*-MlpPolicy-ARS]": CONTRIB,
        "test_save_load.py::test_save_load_policy[*-MlpPolicy-TQC]": CONTRIB,
        "test_save_load.py::test_save_load_policy[*-MlpPolicy-CrossQ]": CONTRIB,
        "test_save_load.py::test_save_load_pytorch_var[*]": CONTRIB,
        "test_save_load.py::test_dqn_target_update_interval[*]": CONTRIB,
        "test_identity.py::test_discrete[*-TRPO]": SPACES,
    },
}


def find_reason(test: str, reasons: dict[str, str]) -> str | None:
    """The reason why a test is expected to fail; None where it is not.

    Raises:
        ValueError: two patterns match: one of them says nothing.
    """
    found = [pattern for pattern in reasons if matches(pattern, test)]
    if len(found) > 1:
        raise ValueError(f"{test} is listed twice, as {' and as '.join(found)}: make the patterns narrower")
    return reasons[found[0]] if found else None


def unmatched(tests: Iterable[str], reasons: dict[str, str]) -> list[str]:
    """The patterns of the files that were collected which match no test: they are out of date."""
    tests = list(tests)
    files = {test.partition("::")[0] for test in tests}
    return [
        pattern
        for pattern in reasons
        if pattern.partition("::")[0] in files and not any(matches(pattern, test) for test in tests)
    ]


def matches(pattern: str, test: str) -> bool:
    """Whether the pattern, in which only `*` is special, is the whole id."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), test) is not None
