// A server of Node's ws, with the orders and answers of book.py, and no handler for SIGTERM.
'use strict';

const path = require('path');
const readline = require('readline');
const { WebSocketServer } = require('ws');
const { version } = require(path.join(path.dirname(require.resolve('ws')), 'package.json'));

const options = JSON.parse(process.argv[2]);
const counts = { accepted: 0, open: 0, peak: 0, requests: 0 };
const open = new Set();

function say(what) {
  process.stdout.write(JSON.stringify(what) + '\n');
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: options.port,
  perMessageDeflate: { threshold: 0 },
});

server.on('connection', (ws) => {
  let requests = 0;
  counts.accepted += 1;
  open.add(ws);
  counts.peak = Math.max(counts.peak, open.size);
  const pinging = setInterval(() => ws.ping(), options.ping_interval * 1000);
  ws.on('error', () => {});
  ws.on('close', () => {
    clearInterval(pinging);
    open.delete(ws);
  });
  ws.on('message', (request) => {
    counts.requests += 1;
    requests += 1;
    ws.send(`${requests} ${request}`);
  });
});

const orders = {
  count: () => ({ ...counts, open: open.size }),
  close: async ({ code }) => {
    const closing = [...open];
    const closed = closing.map((ws) => new Promise((resolve) => ws.on('close', resolve)));
    closing.forEach((ws) => ws.close(code));
    await Promise.all(closed);
    return { closed: closed.length };
  },
};

server.on('listening', () => {
  const input = readline.createInterface({ input: process.stdin });
  input.on('line', async (line) => {
    const order = JSON.parse(line);
    say(await orders[order.do](order));
  });
  input.on('close', () => process.exit(0));
  say({ server: `ws ${version}, Node ${process.versions.node}` });
});
