"""The live view: a page for browsers on which exchanges are seen as they happen. Imported only when asked for.

    lane -- batch --> LiveSink -- Store (the newest exchanges, the plot) --> Server -- events, answers --> the page

`page/` is what the browser runs: no framework, nothing fetched from elsewhere, nothing built.
"""
