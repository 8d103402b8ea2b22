// Keeps requests in one region.

const NO_REGION = "route.no_region";

const verdict = (effect, reasons = []) => ({ effect, reasons, obligations: [], advice: [] });
const reason = (code, text) => ({ code, text, isPublic: true });

export const setup = {
  describe() {
    return JSON.stringify({
      name: "{{name}}",
      version: "0.1.0",
      kind: "route",
      description: "Keeps requests in one region.",
      effects: ["permit", "deny"],
      reasons: [{ code: NO_REGION, text: "no upstream stands in the region" }],
      settings: { type: "object", additionalProperties: false, required: ["region"], properties: { region: { type: "string" } } },
    });
  },

  configure(settings) {
    const { region } = JSON.parse(settings);
    if (typeof region !== "string") throw [{ code: "settings.invalid", detail: "`region` is a text" }];
  },
};

export const routePolicy = {
  decide(input) {
    const { region } = JSON.parse(input.settings);
    const near = input.candidates.filter((candidate) => candidate.region === region);
    if (near.length === 0) return { verdict: verdict("deny", [reason(NO_REGION, "no upstream stands in the region")]), picks: [] };
    return { verdict: verdict("permit"), picks: near.map((candidate, rank) => ({ id: candidate.id, rank, weight: candidate.weight })) };
  },
};
