// A server that went away is noticed within seconds, said in a sentence, and what it leaves behind
// is kept: the fields come back after a reload (knobs.js), and the comparison is offered again.
const EVERY = 3000; // ms between two questions, of a page that is looked at
const SOON = 1000; // the same, while there is no answer
let lost = false;
let answering = ''; // who answers: another name after a restart

async function answers() {
  const { root = location.origin, api_prefix: prefix = '/gradio_api' } = window.gradio_config || {};
  const answer = await fetch(root + prefix + '/app_id', { cache: 'no-store' });
  if (!answer.ok) throw new Error(answer.status);
  return (await answer.json()).app_id;
}

async function watchServer() {
  if (!element.isConnected) return;
  let wait = EVERY;
  if (!document.hidden) {
    try {
      const now = await answers();
      if (lost) found(now !== answering);
      answering = now;
    } catch {
      if (!lost) lose();
      wait = SOON;
    }
  }
  setTimeout(watchServer, wait);
}

// One bar over the page, in every room.
function bar(text, label, action) {
  const node = document.querySelector('#away') || make('div', '', document.body);
  node.id = 'away';
  node.setAttribute('role', 'alert');
  node.replaceChildren();
  make('p', '', node, text);
  if (label)
    make('button', '', node, label).addEventListener('click', () => {
      node.remove();
      action();
    });
  if (!lost) {
    const close = make('button', 'close', node, '×');
    close.setAttribute('aria-label', 'Close');
    close.addEventListener('click', () => node.remove());
  }
}

function lose() {
  lost = true;
  const running = busy();
  const left = { fields, running, drawn: past.length > 0, at: Date.now() };
  store('nag-lost', JSON.stringify(left), 'sessionStorage');
  if (running) stopHere();
  bar(
    'The server does not answer' +
      (running ? ', and this comparison was cut off' : '') +
      '. Words and settings stay here; the page asks every second whether it is back.',
  );
  redraw();
}

// What was under way will not end: it stands as it was when the server went.
function stopHere() {
  const now = value();
  const cells = now.cells.map(cell =>
    BUSY.includes(cell.state)
      ? { ...cell, state: 'stopped', reason: 'The server went away.' }
      : cell,
  );
  props.value = {
    ...now,
    cells,
    over: true,
    hint: '',
  };
}

function found(restarted) {
  lost = false;
  if (restarted)
    location.reload(); // buttons and pictures of this page belong to the old one
  else back(false);
  redraw();
}

// Whether a comparison that a lost server left behind is offered, or is going to be.
let offering = false;
function offersAgain() {
  return offering || (stored('nag-lost', 'sessionStorage') || 'null') !== 'null';
}

// Said once, by the page that was lost or by the one that was loaded after a restart.
function back(loaded) {
  let left = null;
  try {
    left = JSON.parse(stored('nag-lost', 'sessionStorage'));
  } catch {
    /* not ours */
  }
  if (!left || Date.now() - left.at > 3600000) return;
  store('nag-lost', 'null', 'sessionStorage');
  const again = left.running || (loaded && left.drawn);
  offering = Boolean(again);
  bar(
    'The server is back. Words and settings are as you left them' +
      (left.running ? '; the comparison was cut off.' : again ? '; pictures are not.' : '.'),
    again ? 'Compare again' : '',
    () => trigger('select', { set: { ...left.fields, fresh: false } }),
  );
}

addEventListener('offline', () => {
  if (element.isConnected && !lost) lose();
});
if (!value().offline) {
  setTimeout(watchServer, EVERY);
  afterwards.push(() => back(true));
}
