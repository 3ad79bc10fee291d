"""The consolidator: condenses old memories into summaries, so that a board stays small.

`policy` says what, `groups` knows what there is, `plan` what is due; `writers` make the text,
`work` puts a summary and retires its sources, `undoing` takes that back; `service` does it all the
time.

It cannot lose anything, because of three orders. A summary is stored in one atomic batch with a
check that every source is what was read and that this worker still holds the group. Sources are
retired when the summary is on disk and in the index, each only if it is still what was condensed.
And all of this is read from the board again after a crash: what is half done is what a summary and
its sources say.
"""
