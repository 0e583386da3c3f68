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
let last = ''; // the fields and settings that the room was last asked about
let ran = false;

function value() {
  const told = props.value || {}; // at first what the fields begin with
  return { ...NOTHING, ...(told.cells ? told : { refused: told.refused, values: told.values }) };
}

// Whether a picture that stands in a cell is there: an un-guided one beside them is not looked at.
function anyDrawn(now) {
  return now.cells.some(row => row.some(cell => now.pictures[cell.picture].state === 'done'));
}

function isStale(now) {
  return now.pictures.some(one => one.stale);
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
    // values that a link brings are those of its own setting
    const known = list.value === from[side] ? from : props.value;
    $('.' + side + '-values').value = known[side + '_values'];
  }
}

function draw() {
  const now = value(),
    table = $('table.grid');
  const running = now.state === 'running';
  $('.go').hidden = running;
  $('.halt').hidden = !running;
  const some = anyDrawn(now);
  const left = now.missing - (now.beside || 0);
  $('.go').textContent =
    now.state === 'waiting' && !now.refused && some && !isStale(now) && left < now.count
      ? 'Go on'
      : now.state === 'done' && !now.refused
        ? 'All drawn'
        : 'Draw' + (left && !now.refused ? ' ' + left : '');
  $('.first').hidden = some || running;
  $(seeds ? '.seedgrid' : '.sweeparea').hidden = !some && !running;
  // other fields, and there is something to draw again
  $('.go').disabled = now.state === 'done' || !!now.refused;
  for (const name of SAVED) $('.' + name).disabled = !some;
  $('.what').textContent = about(now);
  drawRefused(now.refused);
  table.style.setProperty('--cells', Math.max(1, now.across.length));
  table.style.setProperty('--rows', Math.max(1, now.down.length));
  table.style.setProperty('--aspect', now.aspect || 1);
  drawTable(table, now);
  drawOpen(now);
  drawVerdict(now);
  lend();
  deliver(now.file);
}

// A sentence in place of the counts, which would be those of other fields.
function drawRefused(refused) {
  $('.what').classList.toggle('refused', !!refused);
  $('.what').title = refused ? refused.text : '';
  every('.entry').forEach(node => {
    const wrong = !!refused && node.classList.contains(refused.field + '-values');
    if (wrong) node.setAttribute('aria-invalid', 'true');
    else node.removeAttribute('aria-invalid');
  });
}

function about(now) {
  if (now.refused) return now.refused.text;
  if (!now.count)
    return seeds
      ? 'The same words on many seeds: one picture proves nothing.'
      : 'One seed, two settings against each other.';
  const beside = now.beside || 0; // un-guided pictures that stand in no cell
  const how = seeds ? '' : ' with ' + now.method;
  const left = now.missing
    ? now.missing - beside + ' of ' + now.count + ' to draw' + how +
      (beside ? ', and ' + beside + ' un-guided for comparison' : '')
    : now.count + (now.count === 1 ? ' picture' : ' pictures') + how;
  const time =
    now.missing && now.seconds ? ', about ' + Math.max(1, Math.round(now.seconds)) + ' s' : '';
  const together =
    now.missing && seeds && now.at_once > 1
      ? ', up to ' + now.at_once + ' at once: the pictures of single draws but for rounding'
      : '';
  return (isStale(now) ? 'Settings changed: ' : '') + left + time + together;
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
    shown.stale ? 'stale' : '',
    fits(cell, settings()) && !shown.stale ? 'set' : '',
    open && open[0] === y && open[1] === x ? 'open' : '',
  ].join(' ');
  const other = shown.stale ? 'drawn with other settings' : '';
  button.title = [cell.name, other, shown.told, shown.reason].filter(Boolean).join(': ');
  button.setAttribute(
    'aria-label',
    cell.name +
      (shown.state === 'done' ? ': ' + (shown.told || 'drawn') : ', not drawn yet') +
      (other && ', ' + other),
  );
  button.disabled = shown.state !== 'done';
  const image = $('img', button);
  if (shown.preview && image.getAttribute('src') !== shown.preview) image.src = shown.preview;
  else if (!shown.preview) image.removeAttribute('src');
  image.classList.toggle('none', !shown.preview); // the browser would draw a broken picture
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
  if (one.replaced) make('small', 'note', node, 'in ' + one.replaced + ' something else instead');
  const other = one.against_cfg;
  if (other) {
    const points = [other.difference, ...other.interval].map(
      share => (share > 0 ? '+' : '') + Math.round(100 * share),
    );
    make(
      'small',
      'note',
      node,
      points[0] +
        (/^[+-]1$/.test(points[0]) ? ' point' : ' points') +
        (' against CFG (' + points[1] + ' to ' + points[2] + ')'),
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
  const key = cell.name + '|' + JSON.stringify(shown.cell.made) + Boolean(reference);
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
  use.addEventListener('click', () => {
    // all that made it: of a picture that was drawn before, the fields may say something else
    const set = { ...shown.cell.made, ...cell.set };
    const columns = settings().guidance || [];
    if (!seeds && !columns.includes(now.key)) set.guidance = [...columns, now.key];
    trigger('apply', { set });
    openRoom('Compare');
  });
  const add = make('button', 'button', buttons, 'Add as a column');
  add.addEventListener('click', () => pin(shown.cell, shown.preview, cell.name));
}

function drawVerdict(now) {
  const node = $('.verdict'),
    said = now.verdict;
  if (!node) return;
  node.hidden = !said;
  if (!said) return;
  const stale = isStale(now);
  $('.sign', node).className = 'sign ' + (stale ? '' : said.sign);
  const text = $('.hint', node),
    moves = $('.moves', node);
  text.replaceChildren();
  make('b', '', text, stale ? 'Settings changed.' : said.head);
  text.append(' ' + (stale ? 'What is faint was drawn with those before.' : said.text));
  moves.replaceChildren();
  if (stale) return;
  if (seeds) drawMore(now, moves);
  if (!said.best || now.state === 'running') return;
  const cell = now.cells[said.best[0]][said.best[1]];
  if (fits(cell, settings())) return; // it is what is set
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
    submit();
  });
}

// What decides the plan: it is asked for again when one of these is another.
function wanted() {
  return JSON.stringify([asked(), window.nagSettings]);
}
function submit() {
  last = wanted();
  trigger('submit', asked());
}

$('.go').addEventListener('click', submit);
$('.halt').addEventListener('click', () => trigger('stop', {}));
for (const name of SAVED)
  $('.' + name).addEventListener('click', () => trigger('download', { export: name }));
every('.entry').forEach(node => {
  node.addEventListener('change', () => plan(100));
  node.addEventListener('keydown', event => {
    if (event.key === 'Enter' && !$('.go').disabled) submit();
    else if (event.key === 'Enter') plan(0);
  });
});

// Values are of one setting. Another one has those that were typed for it here, or none yet: the
// server then answers with values around the model's own.
for (const side of seeds ? [] : ['across', 'down']) {
  const typed = {};
  const list = $('.' + side),
    entry = $('.' + side + '-values');
  entry.addEventListener('change', () => {
    typed[list.value] = entry.value;
  });
  list.addEventListener('change', () => {
    entry.value = typed[list.value] || '';
    plan(0);
  });
}
function fill() {
  const values = value().values || {};
  for (const [side, [name, text]] of Object.entries(values)) {
    const entry = $('.' + side + '-values');
    if (entry.value.trim() || (!seeds && $('.' + side).value !== name)) continue;
    const current = last === wanted();
    entry.value = text;
    if (current) last = wanted();
  }
}

// How many and how long, once the fields have come to rest; not while the room draws or is not
// looked at: it asks when it is done, and when it is looked at again.
function plan(wait) {
  clearTimeout(asking);
  asking = setTimeout(() => {
    if (!window.nagSettings || !visible() || value().state === 'running' || last === wanted())
      return;
    last = wanted();
    trigger('input', asked());
  }, wait);
}
addEventListener('nag-settings', () => {
  if (element.isConnected && visible()) {
    draw();
    plan(900);
  }
});
new IntersectionObserver(() => {
  if (!element.isConnected || !visible()) return;
  draw();
  plan(50);
}).observe(element);
// Compare asked for this many seeds, maybe before this room was ever opened.
function drawSeeds() {
  const count = window.nagSeeds;
  if (!seeds || !count || !element.isConnected) return;
  window.nagSeeds = 0;
  const first = Math.min(settings().seed, 2 ** 32 - count);
  $('.seeds-values').value = first + ' .. ' + (first + count - 1);
  submit();
}
addEventListener('nag-seeds', drawSeeds);
watch('value', () => {
  begin();
  fill();
  draw();
  const runs = value().state === 'running';
  if (ran && !runs) plan(50); // fields may have moved meanwhile
  ran = runs;
});
begin();
draw();
drawSeeds();
