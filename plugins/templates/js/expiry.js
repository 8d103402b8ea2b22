// A key is good for so many days after it was made.

const TOO_OLD = "key.too_old";
const DAY_MS = 24n * 60n * 60n * 1000n;

const verdict = (effect, reasons = []) => ({ effect, reasons, obligations: [], advice: [] });
const reason = (code, text) => ({ code, text, isPublic: true });

export const setup = {
  describe() {
    return JSON.stringify({
      name: "{{name}}",
      version: "0.1.0",
      kind: "expiry",
      description: "A key is good for so many days after it was made.",
      effects: ["permit", "deny"],
      reasons: [{ code: TOO_OLD, text: "the key is too old" }],
      settings: { type: "object", additionalProperties: false, required: ["days"], properties: { days: { type: "integer", minimum: 0 } } },
    });
  },

  configure(settings) {
    const { days } = JSON.parse(settings);
    if (!Number.isInteger(days) || days < 0) throw [{ code: "settings.invalid", detail: "`days` is a whole number" }];
  },
};

export const expiryPolicy = {
  decide(input) {
    const untilMs = input.key.createdMs + BigInt(JSON.parse(input.settings).days) * DAY_MS;
    if (input.nowMs >= untilMs) return { verdict: verdict("deny", [reason(TOO_OLD, "the key is too old")]), validUntilMs: undefined };
    return { verdict: verdict("permit"), validUntilMs: untilMs };
  },
};
