"""Policies answer a batch of conversations (`eeflib.policies.base.Policy`)."""

from eeflib.policies.base import Conversation, Message, Policy, Reply

__all__ = ["Conversation", "Message", "Policy", "Reply"]
