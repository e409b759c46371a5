// A function as serverless platforms have them: one request on stdin, one answer on stdout, as JSON.
const { execFileSync } = require('node:child_process');
const readline = require('node:readline');

const handler = async (event) => ({ statusCode: 200, body: 'Hello from Lambda!' });

// All that is above has been loaded: from here on, whoever asks need not wait for it. Node.js has no
// datagram sockets of its own.
const socket = process.env.NOTIFY_SOCKET;
if (socket) execFileSync('socat', ['-u', '-', `UNIX-SENDTO:${socket}`], { input: 'READY=1' });

readline.createInterface({ input: process.stdin }).once('line', async (line) => {
  const answer = JSON.stringify(await handler(JSON.parse(line)));
  process.stdout.write(answer + '\n', () => process.exit(0));
});
