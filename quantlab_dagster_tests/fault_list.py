"""What went wrong before, one sentence a fault; the tests that guard against it say so themselves.

A test names the faults that it would find with `@pytest.mark.guards("fault-id", …)`: it must fail where the cure is
taken out. `reliability.py` puts both side by side into docs/reliability.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHAPTERS", "FAULTS", "KNOWN_GAPS", "Chapter", "Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that went wrong once.

    Attributes:
        id: by which tests name it.
        sentence: what happened.
    """

    id: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """Faults that were met in one place.

    Attributes:
        title: of the place.
        origin: how they became known.
        faults: in the order of the page.
    """

    title: str
    origin: str
    faults: tuple[Fault, ...]


_BEFORE = Chapter(
    "What the systems before this one got wrong",
    "Measured in the daily and the hourly compactor that this project replaces, or read in the issues of like tools.",
    (
        Fault(
            "unsorted-called-sorted",
            "Overlapping chunks were judged ordered by the statistics of their first row group and concatenated:"
            " 94,712 inversions in a day of 3.3 million rows, and a wrong range in its meta.json.",
        ),
        Fault("part-lost", "A part whose download raised was left out, and the merge reported a success."),
        Fault("corrupt-then-deleted", "A corrupt file was skipped in the merge and then deleted with the originals."),
        Fault(
            "rows-doubled",
            "The process died between upload and deletion; the next run merged the originals and the merged file.",
        ),
        Fault(
            "state-unconditional",
            "The state was written without a condition: workers at once erased each other's entries.",
        ),
        Fault("unreadable-state-empty", "A state that could not be read counted as an empty one."),
        Fault("local-time", "Yesterday and today were taken from local time."),
        Fault("watermark-past-failure", "The watermark moved past a day that had failed, and nothing came back to it."),
        Fault("four-digit-parts", "With more than 9,999 parts an index of four digits broke the order of the files."),
        Fault("whole-bucket-listed", "The whole bucket was listed to find partitions."),
        Fault("declared-order", "The file's metadata declared an order that its rows did not have."),
        Fault("consolidated-twice", "A second consolidation destroyed data; overlap was checked after the deletion."),
        Fault("memory-grows", "Memory grew with the day until the process was killed."),
        Fault("check-for-proof", "Statistics or a green check stood for a proof of the bytes that are published."),
        Fault("drifted-retired", "Files that were skipped, drifted or came late were retired with the rest."),
    ),
)

_ROWS = Chapter(
    "Rows that a rebuild or a repair lost",
    "Runs of the first version of this project.",
    (
        Fault(
            "shrink-unknown-sources",
            "A run or a repair of a day of unknown sources rebuilt 3,000 rows as 600 and ended with exit code 0.",
        ),
        Fault(
            "shrink-vanished",
            "A part that retention had deleted, or that had changed, took its rows out of a published day.",
        ),
        Fault("repair-blind", "A repair did not find the lost rows that a verification finds."),
        Fault("adopted-late-parts", "A day of other software with late parts was neither stale nor rebuilt."),
        Fault(
            "adopted-believed", "New data under an adopted meta, left by our own half-done repair, read as up to date."
        ),
        Fault(
            "foreign-meta",
            "A foreign meta beside sources of ours, which means that something wrote over us, was not noticed.",
        ),
        Fault(
            "half-published",
            "A writer that died between data and meta left a day that was taken for whole, or was never mended.",
        ),
        Fault("repair-says-well", "A repair that could not repair, or met a quarantine, ended with exit code 0."),
        Fault("quarantine-over-published", "A bad late part turned a published day into a quarantined one."),
        Fault(
            "writer-lost-sources",
            "Of two writers the loser left its sources beside the winner's meta: late parts were never built in.",
        ),
        Fault("older-listing-wins", "A run with an older listing stayed over one that had late parts."),
        Fault(
            "meta-malformed-absent", "A meta.json that cannot be read counted as none, and the day as not published."
        ),
    ),
)

_STATE = Chapter(
    "A state that did not tell the truth",
    "Runs of the first version of this project.",
    (
        Fault(
            "rebuild-from-published",
            "A rebuild of an unreadable state began at the oldest published day and passed over open ones.",
        ),
        Fault("rebuild-erases-days", "A rebuild of a readable state erased its days."),
        Fault("rebuild-drops-quarantines", "A rebuild dropped the quarantines that had been adopted."),
        Fault("rebuild-drops-accepts", "A rebuild dropped what an operator had accepted."),
        Fault("rebuild-leaves-none", "A rebuild that died half-way left no state at all, which is a cold start."),
        Fault("inventory-forgets", "Adopted entries of the inventory went at a rebuild."),
        Fault("inventory-ages", "The inventory dropped successes by their age, and research tools lost days."),
        Fault("inventory-worse", "A later failure or quarantine wiped the rows and the label of what is published."),
        Fault(
            "seed-2062",
            "A slip of the finger seeded a date in 2062 and settled everything; nothing could take it back.",
        ),
        Fault("empty-object-cold", "A state of just {} counted as a cold start."),
        Fault("odd-times", "A date of 99991231, a naive time or one far ahead in the state crashed or disabled it."),
        Fault(
            "cold-start-forgotten",
            "A first day that failed was forgotten, because nothing had been written before the work.",
        ),
        Fault("settled-for-others", "A day settled by one deployment was taken for done by another with other pairs."),
        Fault("wrong-url-settles", "Behind a wrong raw URL every day was settled as without files, and green."),
        Fault("settled-day-breaks", "A settled day whose data was overwritten was never looked at again."),
        Fault("state-squared", "10,000 symbol-days a day made a state of 60 MB that was rewritten thirty times a day."),
        Fault("roll-up-memory", "The roll-up held the listing of every part of a day."),
    ),
)

_UNATTENDED = Chapter(
    "Days that nobody came back to",
    "Runs of the first version of this project, unattended.",
    (
        Fault(
            "pair-never-again",
            "A pair whose step had ended well was never run again although the roll-up found it open.",
        ),
        Fault(
            "roll-up-swallowed",
            "The roll-up's failure was not recorded, and not said because its text contained another reason.",
        ),
        Fault(
            "dead-run",
            "A killed catch-up left a run that counted as running: every later one did nothing, with exit code 0.",
        ),
        Fault(
            "living-run-ended",
            "Ending dead runs by the clock alone would end those that are merely slow, suspended or elsewhere.",
        ),
        Fault("odd-name-stops-all", "One directory with a control character stopped catch-up for everything."),
        Fault(
            "unreadable-record-stops-all",
            "One record that could not be read stopped the roll-up and the search of all others.",
        ),
        Fault("start-date", "An adopted watermark before QUANTLAB_START_DATE made every tick raise."),
        Fault("outage-uses-up", "Five attempts were used up in two and a half minutes of an outage."),
        Fault("attempts-counted-wrong", "Cancelled runs and runs before the last success counted as failed attempts."),
        Fault("run-key-used-up", "A key once used was passed over in silence, and the day never ran again."),
        Fault(
            "scan-before-open",
            "Late parts were looked for first; when that took a minute, no open day was ever asked for.",
        ),
        Fault("scan-one-by-one", "300 symbol-days one after the other at 30 ms a request: every tick failed."),
        Fault("scan-gap", "A slice of the search that ended at its deadline passed over what it had not looked at."),
        Fault(
            "stale-never-ends",
            "Days shown as stale stayed so after they were mended, or when nothing would look again.",
        ),
        Fault("crash-before-roll-up", "A crash between step and roll-up left a day open for ever."),
        Fault("two-runs-at-once", "Two runs, or two deployments, of the same day at once undid each other's work."),
        Fault("events-believed", "Dagster's events, which may be lost or another instance's, were taken for the lake."),
        Fault("pruned-attempts", "Pruning of the history made a failing day begin its attempts anew."),
        Fault("tick-logs", "Each tick of catch-up left a file for ever: a million of them in a year."),
        Fault("two-lakes-at-once", "A daemon asked one lake what is to be done, and its runs worked on another."),
        Fault("restricted-run-done", "A run of some symbols marked the whole day as done."),
        Fault("restricted-run-backfill", "A restricted run in a backfill ended the backfill as failed."),
        Fault("daily-behind-backfill", "The daily run waited behind a backfill of years."),
        Fault("event-setting-stops-all", "A wrong setting of the event lake stopped the market-data lake as well."),
        Fault(
            "signal-lost",
            "A signal in the middle of a callback was lost, and a terminated run went on or left something half done.",
        ),
    ),
)

_VERDICT = Chapter(
    "All well, with something wrong",
    "Runs of the first version of this project.",
    (
        Fault(
            "open-days-fine",
            "The status was fine, and the check green, with eleven open days below the last settled one.",
        ),
        Fault(
            "quarantine-goes-green",
            "A quarantine went green in the UI with the next day's run, and stayed red on the command line.",
        ),
        Fault("quarantine-not-acceptable", "Accepting a quarantined day was refused, so its red never ended."),
        Fault("watermark-ahead-fine", "A watermark in the future was no finding."),
        Fault("nothing-matched", "A symbol or app that matches nothing was exit code 0."),
        Fault("unknown-variable", "A setting with a typing error in its name was ignored in silence."),
        Fault("which-lake", "Commands did not say which lake they looked at."),
        Fault("verify-blames-the-day", "A part damaged in transit made a verification call a right day wrong."),
        Fault("unclaimed-prefix", "Raw prefixes that no asset claims were ignored."),
        Fault("interrupt-next-day", "Ctrl-C ended one day as failed, and the next day of the range began."),
        Fault("dead-collector", "A collector that had died counted as settled without files, all well, for ever."),
        Fault("weekend-alarm", "What is traded from Monday to Friday was reported as silent every Saturday."),
        Fault(
            "partial-before-the-beginning",
            'A PARTIAL day before the first day of the state was forgotten under "all well", and never published.',
        ),
        Fault(
            "alert-of-another-day",
            "What was counted in the rows of one day was called over because another day, built later, had nothing.",
        ),
        Fault("bad-day-without-worth", "A BAD day that is not published had no label for readers and in the calendar."),
        Fault("staged-hides-day", "A file that got its own name while a reader listed hid the whole day from it."),
    ),
)

_READER = Chapter(
    "What researchers were given",
    "A review of the reader, with Polars' own frames and days of the software before beside it.",
    (
        Fault(
            "head-filter-swapped",
            "Of a LazyFrame, the first rows of a filter were given for a filter of the first rows.",
        ),
        Fault(
            "wrong-range-believed",
            "A range of time missed rows of days whose old meta says a wrong last time, in silence.",
        ),
        Fault("lazy-never-ends", "A LazyFrame that stopped early left threads that waited for themselves, for ever."),
    ),
)

_KERNEL = Chapter(
    "What the kernel believed",
    "Experiments with damaged, hostile and foreign files.",
    (
        Fault(
            "types-lost",
            "UUID, JSON, INT96, TIME, FIXED and zones came out as other types, and the audit said proved.",
        ),
        Fault(
            "types-silently-other",
            "Columns that Parquet or Polars would not give back as they were came out as something else.",
        ),
        Fault(
            "nested-drift-dies",
            "A day or hour with a struct, a list of structs or a map failed for ever where its parts differed in"
            " another column.",
        ),
        Fault(
            "untyped-nulls-die",
            "A column of empty lists, or of nulls without Arrow's schema, ended the run with a traceback"
            " and no culprit.",
        ),
        Fault(
            "case-united",
            "Columns whose names differ in case only were united into one file, of which engines read half or nothing.",
        ),
        Fault("ids-doubled", "An output had one field id on two columns, or the ids of its columns were dropped."),
        Fault(
            "widening-loses",
            "Parts of different types were united with a loss: integers through floats, decimals, unsigned.",
        ),
        Fault("footer-ends-process", "A flipped bit in a footer ended the process as soon as PyArrow looked at it."),
        Fault(
            "negative-count-aborts",
            "A data page with a negative number of values aborted the process, and the next run died of it again.",
        ),
        Fault("run-length-bomb", "221 bytes declared 100 million rows of one run and killed the process at 3 GB."),
        Fault("page-bomb", "A part of 12 KB declared a page of 2 GB."),
        Fault(
            "page-checksums",
            "Checksums of pages were there and not verified: 21 of 25 flipped bits were published, altered.",
        ),
        Fault("damage-unnamed", "A damaged part among thousands failed the day without its name."),
        Fault("rows-not-declared", "A part that decodes to other rows than its footer declares was merged."),
        Fault(
            "statistics-believed", "Statistics that lie put rows into the wrong window, or made a label of a column."
        ),
        Fault("null-order", "A null in the order column was sorted somewhere."),
        Fault("tie-order", "Rows of one time stamp lost their order of arrival."),
        Fault("bytes-vary", "The same raw objects made other bytes under another budget or with other windows."),
        Fault("nulls-merged-again", "A merged column of nothing but nulls could not be merged again."),
        Fault("helper-names", "A column with the name of one of our helpers was mistaken for it."),
        Fault("pattern-names", "A column named * or ^.*$ was taken for a pattern."),
        Fault("seq-for-ever", "A raw column named seq quarantined its symbol-day for ever."),
        Fault("uint64-order", "An order column of unsigned 64 bits could not be compacted at all."),
        Fault(
            "damage-in-transit", "Bytes damaged on their way counted as a bad part, and the symbol-day was quarantined."
        ),
        Fault(
            "damage-in-transit-alone", "The same, where it is the only part and nothing says that ETags are MD5 sums."
        ),
        Fault("put-not-compared", "What arrived in the store was not compared with what had been audited."),
        Fault(
            "own-fault-quarantines",
            "A full disk, an I/O error or a flipped bit in scratch quarantined parts that are right.",
        ),
        Fault("scratch-left", "Scratch files of a killed process stayed for ever."),
        Fault(
            "scratch-predictable", "Scratch directories had predictable names, and links planted there were followed."
        ),
    ),
)

_EVENTS = Chapter(
    "Replacing files in the event lake",
    "Simulations of several compactors, and experiments with engines that read their output.",
    (
        Fault("plan-taken-back", "A renewal of a claim that came due while a plan was written took the plan back."),
        Fault("given-up-stuck", "A crash right after a plan was given up left its hour stuck."),
        Fault("late-publication", "A publication that arrived after everything was over brought deleted rows back."),
        Fault(
            "discard-overwrites",
            "Giving an upload up, late, turned the file that had been published from it into a word.",
        ),
        Fault(
            "claim-for-ever", "A claim of a compactor that had died, or whose clock is wrong, held its hour for ever."
        ),
        Fault("conditional-put-assumed", "Conditional writes were assumed of a server that ignores or refuses them."),
        Fault(
            "conditional-delete-assumed", "Conditional deletes were assumed of a server that ignores or refuses them."
        ),
        Fault(
            "outage-doubles", "Deletes that failed in an outage of seconds left rows twice until the next hour's run."
        ),
        Fault("one-odd-condemns", "One odd file that comes first condemned the many that unite."),
        Fault("drift-fails-hour", "More than twenty files of another schema failed their hour in every run."),
        Fault(
            "drifted-redone",
            "One drifted file whose name came before those of outputs made its hour be done again in every run, and"
            " called late for ever.",
        ),
        Fault(
            "drifted-stays-alone",
            "A sound late file was called corrupt although files of its kind lay beside it, and when more came it"
            " stayed so.",
        ),
        Fault("late-file-rewrites", "One tiny late file an hour rewrote 1,601 times its bytes."),
        Fault(
            "outputs-pile-up",
            "Any number of tiny files that were named as outputs are (by another compactor, or before the target was"
            " raised) were never merged, and never named.",
        ),
        Fault(
            "output-larger",
            "Outputs were larger than their inputs: 2.6 times, for integers of few values (text that comes in"
            " DELTA_BYTE_ARRAY may still grow: docs/adr/0014).",
        ),
        Fault("timeouts", "A slow large body ran into its timeout and was never tried again."),
        Fault("disk-runs-full", "Nothing bounded what merges put into scratch: the disk ran full, for everybody."),
        Fault("another-disk", "A directory on another disk was said to be a fault of scratch, after all the work."),
        Fault("mode-lost", "An output had the permissions of the mask of our process: readers of its inputs lost it."),
        Fault("withheld-stops-all", "One file in cold storage failed its hour, and the run, again and again."),
        Fault(
            "table-compacted",
            "An app that is a Delta, Iceberg or Spark table was compacted where hours were looked at without its log.",
        ),
        Fault(
            "table-above", "A lake whose URL lies within a Delta, Hudi or Iceberg table was compacted without a word."
        ),
        Fault(
            "red-for-ever",
            "A file of another kind beside events, or a mark of a directory, failed a check from the first run on.",
        ),
        Fault(
            "overlooked-lake",
            "Whole lakes counted as empty and healthy: behind five other directories, under names without a suffix, or "
            "in the eyes of whoever reads the exit code of a run.",
        ),
        Fault("layout-doubles", "A crash under one layout, then another one: its output was merged with its inputs."),
        Fault("slots-shared", "Two lakes with one place of slots: the second counted as looked at, and never was."),
        Fault("slots-in-the-way", "Readers that take a whole directory met our JSON beside the data."),
        Fault(
            "looking-costs",
            "Looking cost a listing for each day and app: 18,921 for five years of ten apps, every hour.",
        ),
        Fault(
            "crash-unnoted",
            "A catch-up over more than 200 hours died, and the hours that it had just worked on were not among those"
            " that it had noted: their rows stayed there twice, and everything was said to be fine.",
        ),
    ),
)

_STORES = Chapter(
    "What stores do",
    "Experiments with two S3 servers, a fault-injecting proxy and local directories.",
    (
        Fault("swap-fails-on-success", "A compare-and-swap whose first answer was lost failed on its own success."),
        Fault(
            "missing-bucket-empty",
            "A bucket that is missing, denied or gone was taken for an empty lake or a missing object.",
        ),
        Fault("short-listing", "A listing that failed half-way was taken for a short one."),
        Fault("mixed-versions", "An object replaced while it was read gave a mix of two versions."),
        Fault(
            "etag-returns",
            "On a local directory an old ETag came back within a tick of the clock, and a swap won that should not.",
        ),
        Fault("exit-aborts", "Processes that had done their work aborted at their exit."),
        Fault("accounts-mix", "Half a pair of keys of one account was completed from another."),
        Fault("secrets-told", "Secrets showed in definitions, errors or metrics."),
    ),
)

_LINES = Chapter(
    "Lines that a review could take out unnoticed",
    "Mutations by hand that no fast test noticed.",
    (
        Fault("mutant-cas", "The meta written without compare-and-swap."),
        Fault("mutant-head", "The look at the data after publishing dropped."),
        Fault("mutant-size", "Data of the same size taken for the same data."),
        Fault("mutant-fingerprint", "A fingerprint of raw objects without their size."),
        Fault("mutant-shrink", "The check for fewer rows left out where sources are not known."),
        Fault("mutant-cursor", "The cursor of the search for late parts off by one."),
        Fault("mutant-accepts", "Accepted days dropped in a rebuild."),
        Fault("mutant-stale", "A stale day forgotten although its run failed."),
        Fault("mutant-eligible", "The roll-up of a day that is not over."),
    ),
)

CHAPTERS = (_BEFORE, _ROWS, _STATE, _UNATTENDED, _VERDICT, _READER, _KERNEL, _EVENTS, _STORES, _LINES)
FAULTS = {fault.id: fault for chapter in CHAPTERS for fault in chapter.faults}

KNOWN_GAPS: frozenset[str] = frozenset()
"""Faults that no test guards yet. It only shrinks: who adds the first test takes the fault out of here."""
