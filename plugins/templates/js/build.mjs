// Makes policy.wasm of policy.js. All features are off: a policy has no clock, no randomness, no network, and would not be taken with them.
import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const { component } = await componentize({
  sourcePath: "policy.js",
  witPath: "wit",
  worldName: "{{kind}}",
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
await writeFile("policy.wasm", component);
