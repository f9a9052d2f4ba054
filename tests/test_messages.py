"""Messages to the user and where they go."""

import logging

import pytest

from utils.messages import Log, message, received_by

NAME = "test of messages"


@pytest.fixture
def log():
    return Log(logging.getLogger(NAME), shows_progress=False)


def test_a_log_keeps_no_message(log):
    before = repr(log)
    with received_by(log):
        message("warning: the disk is slow")
    assert repr(log) == before


def test_a_log_logs_a_warning_without_its_first_word(log, caplog):
    with received_by(log), caplog.at_level(logging.INFO, logger=NAME):
        message("warning: the disk is slow")
    assert caplog.record_tuples == [(NAME, logging.WARNING, "the disk is slow")]
