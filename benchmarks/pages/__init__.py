"""Reports as people look at them: Markdown (`markdown`, `variant_page`, `head_to_head_page`), one page for a
browser (`html`), and pictures (`charts`). Nothing here measures or decides."""
