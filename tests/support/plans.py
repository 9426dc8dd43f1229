"""A plan as the seed wants it, filled in."""

GOOD = """\
## 📋 Plan: Learning rates for the small model

### Objective
Find the learning rate that trains the small model best.

### Compute Setup
- Cluster type: local_gpu
- GPU count: 4
- gpuwrap: enabled
- Environment: venv

### Approach
1. **Baseline** — one run as it is
2. **Sweep** — one run per configuration
3. Compare the runs

### Parameters to Sweep
| Parameter | Values | Rationale |
|-----------|--------|-----------|
| lr | 0.001, 0.01 | the usual range |
| seed | 1, 2, 3 | how much chance there is |

### Metrics
- **Primary**: val/loss — what we care about
- **Secondary**: throughput — what it costs

### Success Criteria
- [ ] val/loss < 0.5
- [x] every run finished

### Risks & Mitigations
- **Risk**: divergence → **Mitigation**: warm-up

### Estimated Effort
- **Runs**: 6
- **Time**: 1 h
- **Resources**: 1 GPU each

### 💡 Workflow Improvements
- A script for the sweep
"""


def bindable(
    command: str = "echo lr={lr} seed={seed}",
    more: str = "",
    budget: str = "",
    values: str = "| lr | 0.1, 0.01 | |\n| seed | 1, 2 | |",
    runs: int = 4,
) -> str:
    """A plan for a machine without GPUs that says how it runs. ``more``, ``budget``: lines of its block (TOML)."""
    block = f'```toml orc\ncommand = """{command}"""\n{more}\n' + (f"[budget]\n{budget}\n" if budget else "") + "```"
    text = GOOD.replace("- Cluster type: local_gpu\n- GPU count: 4\n- gpuwrap: enabled", "- Cluster type: cpu_only")
    text = text.replace("| lr | 0.001, 0.01 | the usual range |\n| seed | 1, 2, 3 | how much chance there is |", values)
    text = text.replace("- **Runs**: 6", f"- **Runs**: {runs}")
    return text.replace("3. Compare the runs\n", f"3. Compare the runs\n\n{block}\n")
