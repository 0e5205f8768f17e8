"""Measures the fleet for `fleet bench`. Results are ratios within one run: numbers of another machine prove nothing."""
