"""Parts in, one sorted Parquet file out, proved. Knows neither Dagster nor any storage library.

The path through it: `survey` reads footers and the order column, `cuts` divides the day into windows of bounded
size, `frames` decodes the parts of a window, `merge` sorts, numbers and writes them, `digest` proves the result.
"""
