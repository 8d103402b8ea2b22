// So many requests a day for each key.

const DAY = "quota.day";
const METER = "key.requests.day";

const verdict = (effect, reasons = []) => ({ effect, reasons, obligations: [], advice: [] });
const reason = (code, text) => ({ code, text, isPublic: true });

export const setup = {
  describe() {
    return JSON.stringify({
      name: "{{name}}",
      version: "0.1.0",
      kind: "quota",
      description: "So many requests a day for each key.",
      effects: ["deny", "not_applicable"],
      reasons: [{ code: DAY, text: "the day's requests are used up" }],
      meters: [METER],
      settings: { type: "object", additionalProperties: false, required: ["requests_per_day"], properties: { requests_per_day: { type: "integer", minimum: 0 } } },
    });
  },

  configure(settings) {
    const { requests_per_day: most } = JSON.parse(settings);
    if (!Number.isInteger(most) || most < 0) throw [{ code: "settings.invalid", detail: "`requests_per_day` is a whole number" }];
  },
};

export const quotaPolicy = {
  decide(input) {
    const most = BigInt(JSON.parse(input.settings).requests_per_day);
    const meter = input.meters.find((meter) => meter.name === METER);
    if (meter === undefined) throw { code: "quota.no_meter", detail: METER };
    if (meter.used + meter.reserved < most) return { verdict: verdict("not-applicable"), reserve: [], retryMs: undefined };
    const retryMs = meter.resetsMs === undefined ? undefined : meter.resetsMs - input.nowMs;
    return { verdict: verdict("deny", [reason(DAY, "the day's requests are used up")]), reserve: [], retryMs };
  },
};
