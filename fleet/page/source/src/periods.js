// Periods of time that a sum is made over, and the sums.
const HOUR = 3_600_000;

const at = (now, hour) => new Date(now).setHours(hour, 0, 0, 0);

// Each `[from, to]` in milliseconds, by this browser's clock and time zone.
export const PERIODS = {
  hour: ["The last hour", (now) => [now - HOUR, Infinity]],
  night: ["Last night (18:00 to 8:00)", (now) => {
    const to = at(now, 8) > now ? now : at(now, 8);
    return [at(now, 18) - 24 * HOUR, to];
  }],
  today: ["Today", (now) => [at(now, 0), Infinity]],
  day: ["The last 24 hours", (now) => [now - 24 * HOUR, Infinity]],
  week: ["The last 7 days", (now) => [now - 7 * 24 * HOUR, Infinity]],
  all: ["All that is stored", () => [-Infinity, Infinity]],
};

export const within = (rows, [from, to]) => rows.filter((row) => row.ended && row.ended >= from && row.ended < to && row.status !== "REJECTED");

// What deliberations used and cost, summed. `unpriced`: how many tell no cost; `unknown`: how many told no usage at all.
export function sum(rows) {
  const total = { deliberations: rows.length, degraded: 0, failed: 0, prompt: 0, cached: 0, completion: 0, cost: 0, priced: 0, unpriced: 0, unknown: 0 };
  for (const row of rows) {
    total.degraded += row.degraded ? 1 : 0;
    total.failed += row.status === "FAILED" || row.status === "TIMEOUT" ? 1 : 0;
    total.prompt += row.usage?.prompt_tokens ?? 0;
    total.cached += row.usage?.cached_tokens ?? 0;
    total.completion += row.usage?.completion_tokens ?? 0;
    if (row.cost != null) {
      total.cost += row.cost;
      total.priced += 1;
    } else if (row.usage) total.unpriced += 1;
    else total.unknown += 1;
  }
  return total;
}

// By tenant, role, status, or a key of `correlation`; the dearest first.
export function grouped(rows, by) {
  const value = (row) => (by.startsWith("correlation:") ? row.correlation?.[by.slice(12)] : row[by]) ?? "";
  const groups = Map.groupBy(rows, value);
  return [...groups].map(([name, those]) => ({ name, ...sum(those) })).sort((one, other) => other.cost - one.cost || other.completion - one.completion);
}

export const keysOf = (rows) => [...new Set(rows.flatMap((row) => Object.keys(row.correlation ?? {})))].sort();
