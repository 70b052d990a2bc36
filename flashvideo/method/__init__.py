"""The paper as plain functions of tensors: schedules, guidance, degradation, solvers, both stages."""
