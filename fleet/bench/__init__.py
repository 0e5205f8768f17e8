"""What `fleet bench` measures. Ratios within one run: numbers of another machine prove nothing."""
