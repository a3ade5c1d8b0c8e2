// Joins an election of the npm package etcd3. The tests run it beside this library.
//
//   node contender.js ENDPOINT elect NAME TTL VALUE
//   node contender.js ENDPOINT observe NAME
//
// The package puts its candidates below `election/NAME/`. This program prints "holds KEY" when it
// leads, and "leader VALUE" for each leader that it observes. When its standard input ends, it resigns
// and prints "released".
'use strict';

const { Etcd3 } = require('etcd3');

const [endpoint, command, name, ttl, value] = process.argv.slice(2);
const client = new Etcd3({ hosts: `http://${endpoint}` });

async function elect() {
  const campaign = client.election(name, Number(ttl)).campaign(value);
  await campaign.wait();
  console.log('holds', await campaign.getCampaignKey());
  process.stdin.resume();
  await new Promise(resolve => process.stdin.on('end', resolve));
  await campaign.resign();
  console.log('released');
  process.exit(0);
}

async function observe() {
  const observer = await client.election(name).observe();
  const tell = leader => leader !== undefined && console.log('leader', leader);
  tell(observer.leader());
  observer.on('change', tell);
  observer.on('error', fail);
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

(command === 'elect' ? elect() : observe()).catch(fail);
