// An OpenID provider that is not ours, on a random port of this machine. Prints its issuer, then each event that a test asks about, a JSON line each.
//
// Whatever name is typed in logs in. Refresh tokens are good once: showing one a second time ends the whole grant.
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

// What the provider itself has to say is not for standard output.
console.info = console.log = console.error;
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "keyrelay",
        client_secret: "the-client-secret-of-the-tests",
        token_endpoint_auth_method: "client_secret_post",
        application_type: "native",
        // Any port of the loopback address is as good as this one (RFC 8252, 7.3).
        redirect_uris: ["http://127.0.0.1/callback"],
        response_types: ["code"],
        grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
      },
    ],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@example.com` }) }),
    claims: { openid: ["sub"], email: ["email"] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: { AccessToken: Number(process.argv[2] ?? 3600), RefreshToken: 86400, Grant: 86400, Session: 86400, Interaction: 600, IdToken: 600, DeviceCode: 600 },
    features: { deviceFlow: { enabled: true }, revocation: { enabled: true } },
  });
  for (const event of ["authorization_code.consumed", "refresh_token.consumed", "grant.revoked", "grant.error"]) {
    provider.on(event, (...what) => say({ event, error: what.find((part) => part instanceof Error)?.message }));
  }
  server.on("request", provider.callback());
  say({ issuer });
});
