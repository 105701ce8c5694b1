"""Define the customer service: cases, a simulated customer, the shop's system, a policy and its costs."""

from __future__ import annotations

from rlhf_envs.tasks.customer_service.task import POLICY, CustomerService

__all__ = ["POLICY", "CustomerService"]
