"""A task that uses every optional table, so that retuning the built-in ones moves no expected number here."""

from __future__ import annotations

import pytest

from llmserve_sim.tasks import Task, load_task


@pytest.fixture(scope="session")
def everything() -> Task:
    content = load_task("adversarial_multitenant").model_dump(mode="python")
    content |= {
        "id": "everything",
        "windows": 240,
        "window_s": 5.0,
        "extended": True,
        "max_len_tokens": 10240,
        "traffic": {
            "rate_rps": 9.0,
            "gap_cv": 1.5,
            "burst": {"rate_rps": 30.0, "period_windows": 12, "length_windows": 3, "jitter_windows": 1},
            "spikes": {"probability": 0.05, "rate_rps": 25.0},
            "on_off": {"mean_on_windows": 20.0, "mean_off_windows": 4.0, "off_rate_rps": 2.0},
            "rate_noise": {"cv": 0.2, "correlation": 0.9},
            "diurnal": {"peak_to_trough": 2.0, "period_windows": 120, "trough_window": 10},
        },
        "lengths": {
            "prompt": {"mean_tokens": 450.0, "sigma": 0.9, "min_tokens": 8, "max_tokens": 4000},
            "output": {"mean_tokens": 200.0, "sigma": 0.8, "min_tokens": 4, "max_tokens": 2048},
            "mega": {"share": 0.1, "share_burst": 0.2, "min_tokens": 4000, "max_tokens": 8000},
            "alternation": {
                "period_windows": 16,
                "length_windows": 8,
                "prompt": {"mean_tokens": 2000.0, "sigma": 0.5, "min_tokens": 200, "max_tokens": 4000},
                "output": {"mean_tokens": 50.0, "sigma": 0.5, "min_tokens": 4, "max_tokens": 512},
            },
        },
        "priority": {
            "share": 0.15,
            "share_burst": 0.25,
            "weight": 3.0,
            "surge": {"period_windows": 15, "length_windows": 4, "jitter_windows": 1, "share": 0.7},
        },
        "acceptance": {
            "mean": 0.52,
            "swing": 0.25,
            "period_windows": 40,
            "noise_sd": 0.05,
            "noise_correlation": 0.8,
            "burst_dip": 0.1,
        },
        "cotenant": {"low_gb": 24.0, "high_gb": 66.0, "period_windows": 40, "noise_gb": 1.0},
        "tenants": [
            {
                "id": name,
                "share": share,
                "share_burst": burst,
                "acceptance_offset": offset,
                "quality_stake": 8.0,
                "quality_stake_burst": 2.0,
            }
            for name, share, burst, offset in (
                ("chat", 0.5, 0.4, 0.0),
                ("code", 0.3, 0.2, 0.1),
                ("adversarial", 0.2, 0.4, -0.25),
            )
        ],
    }
    return Task.model_validate(content)
