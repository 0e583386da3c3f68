// Sweep and Seeds: a table of pictures that fills from coarse to fine.
const seeds = element.id === 'room-seeds' || !!$('.r-seeds');
const NOTHING = {
  across: [],
  down: [],
  cells: [],
  pictures: [],
  counted: [],
  made: [],
  state: 'empty',
  count: 0,
  missing: 0,
};
let open = null; // [row, column] of the cell that is looked at
let asking = null;

function value() {
  return props.value && props.value.cells ? props.value : NOTHING;
}

function asked() {
  if (seeds) return { seeds: $('.seeds-values').value };
  return {
    across: $('.across').value,
    across_values: $('.across-values').value,
    down: $('.down').value,
    down_values: $('.down-values').value,
  };
}

// The link that was opened, where it is one to this room; what it asks for is not drawn unasked.
const linked = new URLSearchParams(document.querySelector('#compare') ? location.search : '');
function begin() {
  const fields = props.value && props.value.fields;
  if (!fields) return;
  const own = linked.get('room') === ROOM ? Object.fromEntries(linked) : {};
  const from = { ...props.value, ...own };
  if (seeds) {
    $('.seeds-values').value = from.seeds;
    return;
  }
  for (const side of ['across', 'down']) {
    const list = $('.' + side);
    list.replaceChildren();
    if (side === 'down') make('option', '', list, '(nothing)').value = '';
    for (const [name, label] of fields) make('option', '', list, label).value = name;
    list.value = from[side];
    if (list.selectedIndex < 0) list.value = props.value[side];
    $('.' + side + '-values').value = from[side + '_values'];
  }
}

function draw() {
  const now = value(),
    table = $('table.grid');
  const running = now.state === 'running';
  $('.go').hidden = running;
  $('.halt').hidden = !running;
  const some = now.pictures.some(one => one.state === 'done');
  const left = now.missing - (now.beside || 0);
  $('.go').textContent =
    now.state === 'waiting' && some
      ? 'Go on'
      : now.state === 'done'
        ? 'All drawn'
        : 'Draw' + (left ? ' ' + left : '');
  $('.first').hidden = some || running;
  $(seeds ? '.seedgrid' : '.sweeparea').hidden = !some && !running;
  $('.go').disabled = now.state === 'done'; // other fields, and there is something to draw again
  for (const name of SAVED) $('.' + name).disabled = !some;
  $('.what').textContent = about(now);
  table.style.setProperty('--cells', Math.max(1, now.across.length));
  table.style.setProperty('--rows', Math.max(1, now.down.length));
  table.style.setProperty('--aspect', now.aspect || 1);
  drawTable(table, now);
  drawOpen(now);
  drawVerdict(now);
  lend();
  deliver(now.file);
}

function about(now) {
  if (!now.count)
    return seeds
      ? 'The same words on many seeds: one picture proves nothing.'
      : 'One seed, two settings against each other.';
  const beside = now.beside || 0; // un-guided pictures that stand in no cell
  const left = now.missing
    ? now.missing - beside + ' of ' + now.count + ' to draw' +
      (beside ? ', and ' + beside + ' un-guided for comparison' : '')
    : now.count + ' pictures';
  const time =
    now.missing && now.seconds ? ', about ' + Math.max(1, Math.round(now.seconds)) + ' s' : '';
  const together =
    now.missing && seeds && now.at_once > 1
      ? ', up to ' + now.at_once + ' at once: the pictures of single draws but for rounding'
      : '';
  return left + time + together;
}

function drawTable(table, now) {
  const shape =
    now.down.length +
    'x' +
    now.across.length +
    now.corner +
    now.across.join() +
    now.down.join() +
    now.made;
  if (table.dataset.shape !== shape) {
    table.dataset.shape = shape;
    table.replaceChildren();
    if (!now.across.length) return;
    const head = make('tr', '', make('thead', '', table));
    make('td', 'corner', head, now.corner);
    now.across.forEach(name => {
      make('th', '', head, name).scope = 'col';
    });
    const body = make('tbody', '', table);
    now.down.forEach((name, y) => {
      const row = make('tr', '', body),
        side = make('th', '', row);
      side.scope = 'row';
      make('b', seeds && now.keys[y] && now.keys[y].includes('nag') ? 'nag-name' : '', side, name);
      if (seeds && now.made[y]) make('small', 'made', side, now.made[y]);
      if (seeds) make('span', 'counted', side);
      now.across.forEach((_, x) => {
        const button = make('button', 'mini', make('td', '', row));
        make('img', '', button).alt = '';
        make('span', 'read', button);
        button.addEventListener('click', () => {
          open = [y, x];
          draw();
          $('.inspect').scrollIntoView({ block: 'nearest' });
        });
      });
    });
  }
  now.cells.forEach((row, y) => row.forEach((cell, x) => drawCell(table, now, cell, y, x)));
  const here = settings();
  every('thead th', table).forEach((node, x) =>
    node.classList.toggle(
      'on',
      now.cells.some(row => fits(row[x], here)),
    ),
  );
  every('tbody th', table).forEach((node, y) => {
    node.classList.toggle('on', !seeds && now.cells[y].some(cell => fits(cell, here)));
    if (seeds) drawCount($('.counted', node), now.counted[y]);
  });
}

function fits(cell, here) {
  return (
    cell &&
    Object.entries(cell.set).every(([name, one]) => same(one, here[name]))
  );
}

function drawCell(table, now, cell, y, x) {
  const button = table.tBodies[0].rows[y].cells[x + 1].firstChild,
    shown = now.pictures[cell.picture];
  button.className = [
    'mini',
    shown.state,
    fits(cell, settings()) ? 'set' : '',
    open && open[0] === y && open[1] === x ? 'open' : '',
  ].join(' ');
  button.title = [cell.name, shown.told, shown.reason].filter(Boolean).join(': ');
  button.setAttribute(
    'aria-label',
    cell.name + (shown.state === 'done' ? ': ' + (shown.told || 'drawn') : ', not drawn yet'),
  );
  button.disabled = shown.state !== 'done';
  const image = $('img', button);
  if (shown.preview && image.getAttribute('src') !== shown.preview) image.src = shown.preview;
  else if (!shown.preview) image.removeAttribute('src');
  const read = $('.read', button),
    text = shown.told + '|' + shown.share + shown.state;
  if (read.dataset.text === text) return;
  read.dataset.text = text;
  read.replaceChildren();
  if (now.keys[y] === 'none' && shown.outcome) {
    make('span', '', read, shown.outcome === 'left' ? now.counted[y].word : 'not there');
    make('span', '', read, Math.round(100 * shown.share) + ' %');
  } else if (shown.outcome) {
    outcome(
      shown.outcome,
      shown.told.replace(/, \+.*/, '') +
        (shown.changed.length && shown.outcome !== 'absent' ? ' +' + shown.changed.length : ''),
      read,
    );
    make('span', '', read, Math.round(100 * shown.share) + ' %');
  } else if (shown.state === 'failed') make('span', 'outcome left', read, 'failed');
}

// "7 of 8 gone" with its interval, as words and as a line.
function drawCount(node, one) {
  const text = one ? JSON.stringify(one) : '';
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren();
  if (!one) return;
  const plain = one.there !== undefined;
  const none = !one.of; // drawn yet, or there to go
  const counted = none ? '–' : (plain ? one.there : one.gone) + ' of ' + one.of;
  const figure = make('span', 'figure', node, counted);
  if (none) figure.title = 'Nothing to count yet';
  make('small', '', figure, ' ' + one.word + (plain ? ' there' : ' gone'));
  if (one.interval) {
    const line = make('span', 'ci', node),
      [low, high] = one.interval;
    line.setAttribute('role', 'img');
    line.setAttribute(
      'aria-label',
      '95 % interval ' + Math.round(100 * low) + ' to ' + Math.round(100 * high) + ' %',
    );
    Object.assign(make('i', '', line).style, {
      left: 100 * low + '%',
      width: 100 * (high - low) + '%',
    });
    make('u', '', line).style.left = (100 * one.gone) / one.of + '%';
    make(
      'small',
      'note',
      node,
      '95 %: ' + Math.round(100 * low) + ' to ' + Math.round(100 * high) + ' of 100 seeds',
    );
  }
  if (one.replaced) make('small', 'note', node, 'in ' + one.replaced + ' something in its place');
  const other = one.against_cfg;
  if (other) {
    const points = [other.difference, ...other.interval].map(
      share => (share > 0 ? '+' : '') + Math.round(100 * share),
    );
    make(
      'small',
      'note',
      node,
      points[0] + ' points against CFG (' + points[1] + ' to ' + points[2] + ')',
    );
  }
}

function drawOpen(now) {
  const panel = $('.inspect'),
    cell = open && now.cells[open[0]] && now.cells[open[0]][open[1]];
  const shown = cell && now.pictures[cell.picture];
  panel.hidden = !shown || shown.state !== 'done';
  if (panel.hidden) return;
  const reference = now.pictures[shown.reference];
  const key = cell.name + '|' + shown.preview.length + Boolean(reference);
  if (panel.dataset.key === key) return;
  panel.dataset.key = key;
  panel.replaceChildren();
  make('h2', 'h', panel, cell.name);
  const pair = make('div', 'pair', panel);
  for (const [label, url] of [
    ['No guidance', reference && reference.preview],
    ['This picture', shown.preview],
  ]) {
    if (!url) continue;
    const frame = make('div', 'frame', pair),
      image = make('img', '', frame);
    image.src = url;
    image.alt = label + ', ' + cell.name;
    make('div', 'tag', frame, label);
  }
  const list = make('dl', '', panel);
  const fact = (name, text) => {
    make('dt', '', list, name);
    make('dd', '', list, text);
  };
  if (shown.told) fact('What the meter says', shown.told);
  if (shown.changed.length) fact('Changed unasked', shown.changed.join(', '));
  if (shown.difference !== null) fact('Differs from no guidance by', shown.difference + ' of 255');
  fact('Drawn in', shown.time);
  const buttons = make('div', 'rowbtn', panel);
  const use = make('button', 'button main', buttons, 'Use these settings');
  use.addEventListener('click', () => trigger('apply', { set: cell.set }));
  const add = make('button', 'button', buttons, 'Add as a column');
  add.addEventListener('click', () => pin(shown.cell, shown.preview, cell.name));
}

function drawVerdict(now) {
  const node = $('.verdict'),
    said = now.verdict;
  if (!node) return;
  node.hidden = !said;
  if (!said) return;
  $('.sign', node).className = 'sign ' + said.sign;
  const text = $('.hint', node),
    moves = $('.moves', node);
  text.replaceChildren();
  make('b', '', text, said.head);
  text.append(' ' + said.text);
  moves.replaceChildren();
  if (seeds) drawMore(now, moves);
  if (!said.best || now.state === 'running') return;
  const cell = now.cells[said.best[0]][said.best[1]];
  make('span', '', moves, 'Next');
  make('button', 'button next', moves, cell.name).addEventListener('click', () => {
    open = said.best;
    trigger('apply', { set: cell.set });
    draw();
  });
}

// As many seeds again, where they stand in a row and there is room for them.
function drawMore(now, moves) {
  const all = now.across.map(Number),
    first = all[0],
    last = all[all.length - 1];
  const more = Math.min(8, 24 - all.length);
  if (last - first + 1 !== all.length || more < 1 || now.state === 'running') return;
  make('span', '', moves, 'Next');
  const button = make('button', 'button next', moves, more + ' more');
  button.addEventListener('click', () => {
    $('.seeds-values').value = first + ' .. ' + (last + more);
    trigger('submit', asked());
  });
}

$('.go').addEventListener('click', () => trigger('submit', asked()));
$('.halt').addEventListener('click', () => trigger('stop', {}));
for (const name of SAVED)
  $('.' + name).addEventListener('click', () => trigger('download', { export: name }));
every('.entry, .tools .select').forEach(node => {
  node.addEventListener('change', () => plan(100));
  node.addEventListener('keydown', event => {
    if (event.key === 'Enter') trigger('submit', asked());
  });
});

// How many and how long, once the fields have come to rest; not while the room draws or is not
// looked at.
function plan(wait) {
  clearTimeout(asking);
  asking = setTimeout(() => {
    if (visible() && value().state !== 'running') trigger('input', asked());
  }, wait);
}
addEventListener('nag-settings', () => {
  if (element.isConnected && visible()) {
    draw();
    plan(900);
  }
});
// Compare asked for this many seeds, maybe before this room was ever opened.
function drawSeeds() {
  const count = window.nagSeeds;
  if (!seeds || !count || !element.isConnected) return;
  window.nagSeeds = 0;
  const first = Math.min(settings().seed, 2 ** 32 - count);
  $('.seeds-values').value = first + ' .. ' + (first + count - 1);
  trigger('submit', asked());
}
addEventListener('nag-seeds', drawSeeds);
watch('value', () => {
  begin();
  draw();
});
begin();
draw();
drawSeeds();
