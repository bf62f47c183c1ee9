"""Tests of virtomate.output: what people and scripts see."""
