"""Figures as SVG, drawn by this package alone: no browser and no renderer of plotly's is needed.

    elements       what an SVG is written with: tags, texts and their widths, colours by day and by night
    scales         axes: from data to pixels, and where ticks stand
    traces         what all marks need: colours of numbers, error bars, templates of texts
    cells          heat maps;  columns: bars (histograms too);  points: points and lines
    marks          the table of these: what each takes of its axes, and how it is drawn
    surroundings   what stands around them: ticks, titles, legends, colour bars, annotations
    reading        what a figure says, with its template and its defaults
    sheet          the whole: margins, panels, what is drawn over what

plotly stays the one description of a figure; `sheet.drawn` reads what plotly's own script would read, its template
included. What it cannot draw it refuses as `Undrawable`, instead of leaving it out.
"""
