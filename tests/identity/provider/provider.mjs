// A certified OpenID provider with three clients and whoever signs in, for tests.
//
// node provider.mjs REDIRECT_URI: listens on a free port of loopback and prints its issuer. Its login page
// takes any name and password. PUT /groups/NAME with a list says which groups the user NAME is in.

import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import { createRequire } from 'node:module';

const here = pathToFileURL(`${process.cwd()}/`);
const found = createRequire(here).resolve('oidc-provider');
const { default: Provider } = await import(pathToFileURL(found));

const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const API = 'urn:cloud';

const groups = new Map();

function claimsOf(name) {
  return {
    sub: name,
    name: `${name} Example`,
    preferred_username: name,
    email: `${name}@example.com`,
    email_verified: true,
    groups: groups.get(name) ?? [],
  };
}

async function setGroups(request, response) {
  let body = '';
  for await (const chunk of request) body += chunk;
  groups.set(request.url.split('/')[2], JSON.parse(body));
  response.writeHead(204).end();
}

const configuration = {
  clients: [
    {
      client_id: 'cloud',
      client_secret: 'the-secret-of-the-cloud',
      redirect_uris: [process.argv[2]],
      grant_types: ['authorization_code', 'client_credentials', DEVICE],
      response_types: ['code'],
    },
    {
      client_id: 'command-line',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      redirect_uris: [],
      response_types: [],
      grant_types: [DEVICE],
    },
    {
      client_id: 'stranger',
      client_secret: 'the-secret-of-a-stranger',
      redirect_uris: [],
      response_types: [],
      grant_types: [DEVICE, 'client_credentials'],
    },
  ],
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'preferred_username', 'groups'],
  },
  conformIdTokenClaims: false, // Claims stand in the id token, too.
  findAccount: (ctx, id) => ({ accountId: id, claims: async () => claimsOf(id) }),
  extraTokenClaims: (ctx, token) => (token.aud && token.accountId ? claimsOf(token.accountId) : {}),
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    clientCredentials: { enabled: true },
    userinfo: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // The public client's access tokens are JWTs for the cloud; the others' are opaque.
      defaultResource: (ctx, client) => (client.clientId === 'command-line' ? API : undefined),
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'openid profile email',
        audience: 'cloud',
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  cookies: { keys: ['only', 'for', 'tests'] },
  ttl: { AccessToken: 600, DeviceCode: 300, Interaction: 600, Session: 600, Grant: 600, IdToken: 600 },
};

const server = createServer((request, response) => {
  if (request.method === 'PUT' && request.url.startsWith('/groups/')) setGroups(request, response);
  else callback(request, response);
});
let callback;
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  callback = new Provider(issuer, configuration).callback();
  console.log(`issuer ${issuer}`);
});
