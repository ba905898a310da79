"""Where gearmand 1.1.20 does not do what the scripts say: the script's name, and why.

The scripts say what this project's server does. Held strictly both ways: a script that is named here must fail
against gearmand, and one that is not must pass. "Defect N" is a row of the list of gearmand's known defects;
sections are those of the protocol reference.
"""

from __future__ import annotations

_BLACK_HOLE = "section 11: an abandoned or cancelled job swallows submissions of its unique (defects 3 and 34)"
_TIME_LIMIT = "section 14: the job is requeued, the published text says it fails (defect 6)"

GEARMAND: dict[str, str] = {
    # framing and limits
    "a_huge_type_does_not_kill_the_server": "section 1: a type of 2^31 or more ends the process (defect 30)",
    "missing_arguments_are_an_error": "section 1: it waits for the rest and reads the next packet as it (defect 40)",
    "a_result_may_be_left_away": "section 1: it waits for the rest and reads the next packet as it (defect 40)",
    "a_reduce_job_of_three_arguments_is_an_error": "section 2: it waits for the fourth argument",
    "a_packet_larger_than_the_limit_is_an_error": "section 1: it has no limit (defect 30)",
    "a_unique_of_64_bytes_is_refused": "section 3: accepted, and the worker's payload is corrupt (defect 18)",
    "a_function_of_256_bytes_is_refused": "section 3: accepted, and its queues or workers fail later (defect 48)",
    "a_handle_that_is_too_long_is_answered": "section 3: no answer at all (defect 40)",
    "a_time_beyond_all_numbers_is_answered": "section 4: no answer at all (defect 40)",
    "a_function_with_a_nul_at_its_end_is_that_function": "section 2: it becomes another function",
    # uniques, callers that leave, cancelled jobs
    "an_abandoned_foreground_job_swallows_no_background_one": _BLACK_HOLE,
    "an_abandoned_foreground_job_swallows_no_foreground_one": _BLACK_HOLE,
    "who_joins_an_abandoned_running_job_keeps_it_alive": _BLACK_HOLE,
    "a_cancelled_job_swallows_no_new_one": _BLACK_HOLE,
    "a_foreground_caller_that_leaves_does_not_take_a_background_job_along": "section 11, trap 2 (defect 4)",
    "a_background_submission_makes_a_foreground_job_durable": "section 11: it inherits the foreground job's fate",
    "a_job_that_nobody_wants_is_forgotten_at_once": "section 12: it stays listed until a worker passes it",
    "a_cancelled_queued_job_is_forgotten_at_once": "section 17: it stays listed until a worker passes it",
    "cancelling_a_running_job_fails_it_once": "section 17: callers get WORK_FAIL and later the answer (defect 34)",
    # answers
    "a_failures_handle_is_sent_on_without_its_nul": "section 5: the NUL is sent on",
    "an_exception_is_a_failure_for_the_others": "section 15: the handle ends in a NUL (defect 39)",
    # abilities, order, sleep
    "priority_counts_across_functions": "section 10: the function is chosen first; 2.0.0 does it (defect 36)",
    "functions_take_turns": "section 8: the last function starves the others; 2.0.0 takes turns (defect 36)",
    "the_same_ability_counts_once": "section 8: it is registered twice",
    "giving_up_an_ability_leaves_the_running_job": "section 9: the job is requeued and run twice (defect 7)",
    "a_worker_that_sleeps_again_without_grabbing_is_woken_again": "section 7: it is never woken again (defect 8)",
    "an_ability_that_comes_during_sleep_wakes": "section 7: no wake-up (CAN_DO while asleep)",
    "one_job_wakes_one_worker": "section 7: all sleepers are woken (defect 11)",
    "a_woken_worker_that_does_not_grab_is_replaced": "section 7: all sleepers are woken at once (defect 11)",
    # times
    "a_job_for_later_wakes_a_sleeper_when_it_is_due": "section 16: nobody is woken; 2.0.0 does it (defect 1)",
    "a_job_for_later_can_be_cancelled": "section 16: as above, nobody is woken when the other job is due (defect 1)",
    "a_job_for_later_hides_no_low_job": "section 16: LOW jobs are hidden; fixed in 2.0.0 (defect 2)",
    "a_job_for_later_does_not_wake_anybody_before": "section 16: sleepers get a NOOP at submission",
    "a_job_over_its_time_limit_fails": _TIME_LIMIT,
    "sleeping_does_not_stop_the_time_limit": "section 14: PRE_SLEEP cancels the timer",
    "a_time_limit_belongs_to_its_job": "section 14: one timer per connection, with a stale pointer (defect 6)",
    # admin
    "too_many_words_are_refused": "section 17: the connection is closed without a word (defect 47)",
    "maxqueue_counts_for_a_function_that_is_new": "section 17: answered OK and ignored",
    "a_function_can_be_created_with_a_bare_lf": "section 17: the last character is cut (defect 47)",
    "a_function_with_jobs_is_not_dropped": "section 17: dropped, and its jobs are stranded (defect 33)",
}
